"""A step of the set-up: its sentence where it fails, free space, its stamp, its progress. Python 3.6 syntax."""

import os
import shutil
import sys
import time

from .places import ROOT

GIGABYTE = 10**9


class Problem(Exception):
    """What failed and what to do about it, in one sentence."""


def free_space(folder):
    return shutil.disk_usage(str(folder)).free


def check_space(need, what, free=free_space):
    """Refuses before the work starts what the disk could not hold. need: bytes."""
    have = free(ROOT)
    if have < need:
        raise Problem(
            "{} needs {:.1f} GB free on the disk of {} and only {:.1f} GB are left: free some space and run "
            "the command again.".format(what, need / GIGABYTE, ROOT, have / GIGABYTE)
        )


def stamped(path, key):
    """Whether the step that leaves this file was finished with exactly this key."""
    try:
        return path.read_text() == key
    except OSError:
        return False


def set_stamp(path, key):
    partial = path.with_name(path.name + ".partial")
    partial.write_text(key)
    os.replace(str(partial), str(path))


class Status:
    """One live line on a terminal; elsewhere a line when a step starts, and a sign of life twice a minute."""

    def __init__(self, label):
        self.label, self.start, self.last = label, time.time(), time.time()
        self.live = sys.stdout.isatty()
        self.say("")
        if not self.live:
            print("{} ...".format(label), flush=True)

    def say(self, text):
        seconds = int(time.time() - self.start)
        line = "{} {}:{:02d} {}".format(self.label, seconds // 60, seconds % 60, text)
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            sys.stdout.write("\r" + line[:width].ljust(width))
            sys.stdout.flush()
        elif time.time() - self.last > 30:
            self.last = time.time()
            print("  " + line, flush=True)

    def done(self, word="done"):
        if self.live:
            self.say(word)
            print(flush=True)
        else:
            print("  {} {} after {:.0f} s".format(self.label, word, time.time() - self.start), flush=True)
