"use strict";
(() => {
  const { config, template } = JSON.parse(document.getElementById("settings").textContent);
  const figures = [...document.querySelectorAll("div.figure")];
  // A4 less its margins, at 96 dots an inch.
  const PAPER = 690, GAP = 32, LABEL = 19;

  // As many names of taps as stand beside one another at this width, and the last.
  function ticks(meta, width) {
    const last = meta.places.length - 1, step = Math.max(1, Math.ceil(((last + 1) * LABEL) / Math.max(width - (meta.forms ? Math.min(290, width / 2) : 110), 60)));
    const shown = [];
    for (let i = 0; i < last; i += step) if (last - i >= step) shown.push(i);
    shown.push(last);
    const fitted = { "xaxis.tickvals": shown.map((i) => meta.places[i]), "xaxis.ticktext": shown.map((i) => meta.names[i]) };
    // On a narrow screen the names of rows take more lines.
    const form = meta.forms && (width < 600 ? meta.forms.narrow : meta.forms.wide);
    if (form) Object.assign(fitted, { "yaxis.ticktext": form.labels, height: form.height });
    return fitted;
  }

  // What a figure's layout is at this width.
  function fitted(place, { meta }, width) {
    const own = meta && meta.places ? ticks(meta, width) : {};
    if (own.height) place.style.height = `${own.height}px`;
    return own;
  }

  async function unpack() {
    if (!figures.length) return;
    const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const library = document.createElement("script");
    library.textContent = await new Response(stream).text();
    document.head.append(library);
  }

  function draw(place) {
    const { data, layout } = JSON.parse(place.querySelector("script").textContent);
    const figure = document.createElement("div");
    place.append(figure);
    layout.template = template;
    layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
    layout.autosize = true;
    const own = fitted(place, layout, place.clientWidth);
    for (const key in own) {
      const [axis, setting] = key.split(".");
      if (setting) layout[axis][setting] = own[key]; else layout[key] = own[key];
    }
    Plotly.newPlot(figure, data, layout, config);
    figure.dataset.width = place.clientWidth;
    const rows = layout.meta && layout.meta.rows;
    if (rows) {
      figure.on("plotly_click", (event) => { location.hash = rows[event.points[0].y] || ""; });
      place.classList.add("links");
    }
  }

  // Beside one another, as the style sheet puts them.
  const onPaper = (place) => (place.closest("section:not(.wide, :has(details[open], .matrix))") ? (PAPER - GAP) / 2 : PAPER);

  function resize(printed) {
    for (const place of figures) {
      const figure = place.querySelector(".js-plotly-plot"), room = printed ? onPaper(place) : place.clientWidth;
      if (!figure || !room || String(room) === figure.dataset.width) continue;
      figure.dataset.width = room;
      Plotly.relayout(figure, { ...(printed ? { width: room } : { width: null, autosize: true }), ...fitted(place, figure.layout, room) });
    }
  }
  let waiting;
  addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(() => resize(), 150); });
  addEventListener("beforeprint", () => { for (const d of document.querySelectorAll("#words + details")) d.open = true; resize(true); });
  addEventListener("afterprint", () => resize());

  // Who prints a page without looking at it does so once it is loaded, which it is not before this frame is.
  const hold = document.createElement("iframe");
  hold.hidden = true;
  document.body.append(hold);
  hold.contentDocument.open();
  unpack().then(
    () => figures.forEach(draw),
    () => { for (const place of figures) place.textContent = "Figures are drawn by browsers of 2023 and later."; },
  ).finally(() => { hold.contentDocument.close(); hold.remove(); });

  // Tables as files: of a number also the ends of its interval, and all digits.
  function csv(table) {
    const rows = [...table.rows].map((row) => [...row.cells]);
    const wide = rows[0].map((_, i) => rows.some((row) => row[i] && row[i].dataset.numbers));
    const quoted = (text) => {
      // A spreadsheet would run what looks like a formula.
      if (/^[=+@\t\r-]./.test(text) && !Number.isFinite(Number(text))) text = `'${text}`;
      return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    return rows.map((row) => row.flatMap((cell, i) => {
      const text = (cell.dataset.text || cell.textContent).replaceAll("\u00a0", " ").trim();
      if (!wide[i]) return [text];
      if (cell.tagName === "TH") return [text, `${text} low`, `${text} high`];
      return cell.dataset.numbers ? cell.dataset.numbers.split(" ") : [text, "", ""];
    }).map(quoted).join(",")).join("\r\n");
  }
  for (const table of document.querySelectorAll("main table")) {
    const link = document.createElement("a");
    link.className = "csv";
    link.textContent = "CSV";
    link.title = "Save this table as CSV";
    const within = table.closest("section, .sections") || table;
    const title = within.querySelector("h3") || [...document.querySelectorAll("h2")].filter((h) => h.compareDocumentPosition(table) & 4).pop();
    link.download = `${title ? title.textContent.trim().replace(/[^\w.-]+/g, "-") : "table"}.csv`;
    link.href = "#";
    link.addEventListener("click", () => { link.href = `data:text/csv;charset=utf-8,${encodeURIComponent("\ufeff" + csv(table))}`; });
    table.parentElement.before(link);
  }

  // Where there is room beside the page the contents stay open, else they are a line at its top.
  const contents = document.querySelector("nav details"), narrow = matchMedia("(max-width: 1279px)");
  const fold = () => { contents.open = !narrow.matches; };
  fold();
  narrow.addEventListener("change", fold);
  contents.addEventListener("click", (event) => { if (narrow.matches && event.target.tagName === "A") contents.open = false; });
})();
