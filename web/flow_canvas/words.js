// The words and the look of the Flow Canvas's editor, and the pointer's shape over each handle.

export const TOOLS = {
  lasso: ["Lasso", "Draw round a thing to mark it as a new region. With Shift, add to the chosen one"],
  brush: ["Brush", "Paint a region; choose Brush again to begin another. With Shift, add to the chosen one"],
  erase: ["Erase", "Take away from the chosen region"],
  pick: ["Pick", "Click on a thing to mark its connected colours as a region. With Shift, add to the chosen one"],
  move: ["Move", "Drag a region, or its handles: corners scale, sides stretch, the knob turns. Alt-drag puts the orange "
    + "pivot elsewhere. Shift: fractions of a pixel. Arrow keys nudge"],
};
export const ACTIONS = {
  undo: ["Undo", "Ctrl+Z"], redo: ["Redo", "Ctrl+Shift+Z"], front: ["To front", "Nearest of all regions"],
  still: ["Still", "Stays where it is and hides what passes behind it"], home: ["Put back", "Undo the region's motion"],
  remove: ["Delete", "Delete the chosen region (Del)"],
};
export const STYLE = `
.palimpsest-canvas { display: flex; flex-direction: column; gap: 4px; width: 100%; height: 100%; min-height: 240px;
  font: 12px sans-serif; color: var(--input-text, #ddd); outline: none; }
.palimpsest-canvas .row { display: flex; flex-wrap: wrap; gap: 3px; align-items: center; flex: none; }
.palimpsest-canvas button { font: inherit; color: inherit; background: var(--comfy-input-bg, #222); padding: 2px 7px;
  border: 1px solid var(--border-color, #4e4e4e); border-radius: 4px; cursor: pointer; }
.palimpsest-canvas button[aria-pressed="true"] { background: #3b6ea5; color: #fff; }
.palimpsest-canvas button:disabled { opacity: 0.4; cursor: default; }
.palimpsest-canvas .stage { flex: 1 1 auto; min-height: 0; position: relative; }
.palimpsest-canvas canvas { position: absolute; inset: 0; margin: auto; max-width: 100%; max-height: 100%;
  touch-action: none; }
.palimpsest-canvas .keys { position: absolute; width: 1px; height: 1px; opacity: 0; border: 0; padding: 0; }
.palimpsest-canvas .chips { min-height: 22px; }
.palimpsest-canvas .words { flex: none; opacity: 0.75; height: 30px; line-height: 15px; overflow: hidden;
  display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 2; }
`;

export const CURSORS = {
  corner: "nwse-resize", "side-x": "ew-resize", "side-y": "ns-resize", turn: "grab", pivot: "crosshair", move: "move",
};
