// Commands are copied by a button; matrices are walked through by pointer or arrow keys.
"use strict";

for (const pre of document.querySelectorAll("pre.command")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "copy";
  button.setAttribute("aria-label", `copy: ${pre.textContent}`);
  button.addEventListener("click", async () => {
    let done = true;
    try {
      await navigator.clipboard.writeText(pre.textContent);
    } catch {
      // Where a page from a file may not use the clipboard: what is selected can be copied.
      getSelection().selectAllChildren(pre);
      done = document.execCommand("copy");
    }
    button.textContent = done ? "copied" : "selected: press Ctrl-C";
    setTimeout(() => (button.textContent = "copy"), 2000);
  });
  pre.parentElement.append(button);
}

for (const box of document.querySelectorAll(".matrices[data-needs]")) {
  const { needs, sees, scored, rise, first } = box.dataset;
  const rows = (data) => data && data.split(" ");
  const needed = rows(needs), seen = rows(sees), rises = rise && JSON.parse(rise), offset = Number(first);
  const matrices = [...box.querySelectorAll(".matrix")], told = box.querySelector("output");
  let t = 0, s = 0;

  const sentence = () => {
    const of = t + offset, alone = needed.length === 1;
    const label = alone ? "the label" : `label ${of}`, output = alone ? "the output" : `output ${of}`;
    const need = { 1: "needs", 0: "does not need" }[needed[t][s]];
    let words = need ? `${label} ${need} step ${s}` : `it cannot be told whether ${label} needs step ${s}`;
    if (rises && rises[t][s] !== null) words += ` (swapping it raises the loss by ${rises[t][s]} nats)`;
    if (seen) {
      const sight = seen[t][s] === "?" ? "it cannot be told whether" : "";
      const verb = seen[t][s] === "0" ? "does not see it" : "sees it";
      words += sight ? `; ${sight} ${output} sees it` : `; ${output} ${verb}`;
    }
    return words + (scored[t] === "0" ? "; this step is not scored" : "");
  };
  const go = (row, column) => {
    t = Math.min(Math.max(row, 0), needed.length - 1);
    s = Math.min(Math.max(column, 0), needed[0].length - 1);
    for (const matrix of matrices) {
      const here = matrix.querySelector(".here");
      here.setAttribute("x", s);
      here.setAttribute("y", t);
    }
    box.classList.add("walked");
    told.textContent = sentence();
  };
  const moves = {
    ArrowUp: () => [t - 1, s], ArrowDown: () => [t + 1, s], ArrowLeft: () => [t, s - 1],
    ArrowRight: () => [t, s + 1], Home: () => [t, 0], End: () => [t, needed[0].length - 1],
  };
  for (const matrix of matrices) {
    const cells = matrix.querySelector("svg");
    const point = (event) => {
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(cells.getScreenCTM().inverse());
      const [row, column] = [Math.floor(at.y), Math.floor(at.x)];
      if (row >= 0 && column >= 0 && row < needed.length && column < needed[0].length) go(row, column);
    };
    matrix.addEventListener("pointermove", point);
    matrix.addEventListener("pointerdown", point);
    matrix.addEventListener("focus", () => { if (!box.classList.contains("walked")) go(t, s); });
    matrix.addEventListener("keydown", (event) => {
      if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      go(...moves[event.key]());
    });
  }
}
