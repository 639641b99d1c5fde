// Read-outs of the curves under the pointer, or by the arrow keys. The page says everything without them.
(() => {
  "use strict";
  const source = document.getElementById("run-data");
  if (!source) return;
  const run = JSON.parse(source.textContent);
  const epochs = run.phases.flatMap((phase) => phase.epochs.map((row) => ({ phase: phase.name, row })));
  const areas = [...document.querySelectorAll("figure[data-plot] .area")];
  if (!epochs.length || !areas.length) return;

  const number = (value) => (value === null ? "not a number" : String(Number(value.toPrecision(4))));
  const metric = (value) => (run.share && value !== null ? (value * 100).toFixed(2) + "\u00a0%" : number(value));
  const cursors = areas.map((area) => {
    const line = document.createElement("div");
    line.className = "cursor";
    line.hidden = true;
    area.append(line);
    return line;
  });
  const readout = document.createElement("div");
  readout.className = "readout";
  readout.setAttribute("role", "status");
  readout.hidden = true;
  let at = epochs.length - 1;

  const hide = () => {
    readout.hidden = true;
    for (const line of cursors) line.hidden = true;
  };
  const show = (area, index) => {
    at = Math.max(0, Math.min(epochs.length - 1, index));
    const { phase, row } = epochs[at];
    const place = (at + 1) / epochs.length;
    for (const line of cursors) {
      line.style.left = place * 100 + "%";
      line.hidden = false;
    }
    const lines = [`${phase}, epoch ${row[0]}`];
    if (!run.loss) lines.push(`${run.metric} ${metric(row[1])}`);
    lines.push(`validation loss ${number(row[2])}`, `training loss ${number(row[3])}`, `learning rate ${number(row[4])}`);
    // Early versions did not tell it.
    if (row[5] !== null) lines.push(`norm of the gradients ${number(row[5])}`);
    readout.replaceChildren(
      ...lines.map((text, i) => {
        const element = document.createElement(i ? "div" : "b");
        element.textContent = text;
        return element;
      }),
    );
    area.append(readout);
    readout.hidden = false;
    const width = area.clientWidth;
    const own = readout.offsetWidth;
    const left = place * width + (place > 0.5 ? -own - 10 : 10);
    readout.style.left = Math.max(0, Math.min(width - own, left)) + "px";
  };

  for (const area of areas) {
    area.addEventListener("pointermove", (event) => {
      const box = area.getBoundingClientRect();
      show(area, Math.round(((event.clientX - box.left) / box.width) * epochs.length) - 1);
    });
    area.addEventListener("pointerleave", hide);
    const drawing = area.querySelector("svg");
    drawing.setAttribute("tabindex", "0");
    drawing.addEventListener("focus", () => drawing.matches(":focus-visible") && show(area, at));
    drawing.addEventListener("blur", hide);
    drawing.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -epochs.length, End: epochs.length };
      if (!(event.key in steps)) return;
      event.preventDefault();
      show(area, at + steps[event.key]);
    });
  }
  // Paper shows what is folded on the screen.
  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details")) details.open = true;
  });
})();
