"use strict";
// Tables that a reader sorts by a click on a heading, searches, and narrows to one value of a column.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
  const tools = document.createElement("p"), count = document.createElement("span"), search = document.createElement("input");
  tools.className = "tools screen";
  search.type = "search";
  search.placeholder = "Search";
  search.setAttribute("aria-label", "Search the rows");

  const shown = (cell) => (cell.dataset.text || cell.textContent).trim();
  const value = (cell) => {
    const text = cell.dataset.numbers ? cell.dataset.numbers.split(" ")[0] : shown(cell);
    return text && Number.isFinite(Number(text)) ? Number(text) : text;
  };
  // What has no value comes last, whichever way.
  const empty = (one) => one === "" || one === "-";
  function order(a, b, down) {
    if (empty(a) || empty(b)) return empty(a) - empty(b);
    const way = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
    return down ? -way : way;
  }

  const choices = heads.map((head, i) => {
    if (!("choice" in head.dataset)) return null;
    const choice = document.createElement("select"), of = (row) => row.cells[i].dataset.choice || shown(row.cells[i]);
    choice.setAttribute("aria-label", head.textContent);
    choice.add(new Option(`every ${head.textContent}`, ""));
    for (const each of [...new Set(rows.map(of))].sort()) choice.add(new Option(each, each));
    choice.addEventListener("change", narrow);
    return { choice, of };
  }).filter(Boolean);

  function narrow() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const fits = words.every((word) => text.includes(word)) && choices.every(({ choice, of }) => !choice.value || of(row) === choice.value);
      row.hidden = !fits;
      left += fits;
    }
    count.textContent = `${left} of ${rows.length} rows`;
  }

  heads.forEach((head, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      // Numbers begin with the largest.
      const number = rows.some((row) => typeof value(row.cells[i]) === "number");
      const now = head.getAttribute("aria-sort");
      const down = now ? now === "ascending" : number;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      rows.sort((a, b) => order(value(a.cells[i]), value(b.cells[i]), down));
      body.append(...rows);
    });
  });

  search.addEventListener("input", narrow);
  tools.append(search, ...choices.map(({ choice }) => choice), count);
  table.parentElement.before(tools);
  narrow();
}
