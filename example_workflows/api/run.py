"""Runs a prompt of this folder on a running ComfyUI, and fetches what it makes; url= and to= name server and folder.

python run.py "Edit by words.json" picture=photo.png caption="a cat on a sofa" edits="a dog on a sofa" seed=3
"""

import json
import sys
import time
import urllib.parse
import urllib.request
import uuid
from pathlib import Path


def ask(url, body=None, kind="application/json"):
    with urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": kind})) as answer:
        return answer.read()


def upload(url, path):
    line = uuid.uuid4().hex
    head = f'--{line}\r\nContent-Disposition: form-data; name="image"; filename="{path.name}"\r\n\r\n'
    body = head.encode() + path.read_bytes() + f"\r\n--{line}--\r\n".encode()
    return json.loads(ask(f"{url}/upload/image", body, f"multipart/form-data; boundary={line}"))["name"]


file, values = sys.argv[1], dict(one.split("=", 1) for one in sys.argv[2:])
url, folder = values.pop("url", "http://127.0.0.1:8188"), Path(values.pop("to", "."))
prompt = json.loads(Path(file).read_text(encoding="utf-8"))
for node in prompt.values():
    for name, control in node["_meta"].get("controls", {}).items():
        if control in values:
            is_file, kind = node["class_type"] == "LoadImage", type(node["inputs"][name])
            node["inputs"][name] = upload(url, Path(values[control])) if is_file else kind(values[control])
number = json.loads(ask(f"{url}/prompt", json.dumps({"prompt": prompt}).encode()))["prompt_id"]
while not (entry := json.loads(ask(f"{url}/history/{number}")).get(number)):
    time.sleep(0.5)
for one in (one for made in entry["outputs"].values() for one in made.get("images", ()) if one["type"] == "output"):
    (folder / one["filename"]).write_bytes(ask(f"{url}/view?{urllib.parse.urlencode(one)}"))
sys.exit(0 if entry["status"]["status_str"] == "success" else json.dumps(entry["status"]["messages"][-1]))
