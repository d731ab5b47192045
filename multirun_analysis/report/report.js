// Draws each figure from the JSON beside it. A slot holds one figure per choice of its control.
(() => {
  const compact = window.matchMedia("(max-width: 640px)").matches;
  const touch = window.matchMedia("(pointer: coarse)").matches;
  const config = {
    responsive: true, displaylogo: false, scrollZoom: false, displayModeBar: touch || compact ? false : "hover",
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
  };
  const facets = JSON.parse(document.getElementById("facets").textContent);
  const filters = [...document.querySelectorAll("select.filter")];
  const asked = () => filters.filter((box) => box.value).map((box) => [box.dataset.key, box.value]);
  // Whether a run or a group has what the filters ask; what is no run, such as a site, always has.
  const fits = (name) => {
    const own = facets[name];
    return !own || asked().every(([key, value]) => own[key] === value);
  };
  const keep = (values, indices) =>
    Array.isArray(values) ? indices.map((index) => values[index]) : values;
  const PER_POINT = ["x", "y", "base", "width", "text", "hovertext", "customdata"];
  // The trace with the points that fit, or null where none is left.
  const filtered = (trace) => {
    if (!asked().length) return trace;
    const meta = trace.meta ?? {};
    if (meta.run ?? meta.group) return fits(meta.run ?? meta.group) ? trace : null;
    const names = trace.customdata;
    if (!Array.isArray(names)) return trace;
    // A front is one of all its runs: without some of them it would be another.
    if ("front" in meta) return names.every(fits) ? trace : null;
    // A point over several settings names them all.
    const known = (name) => (facets[name] ? [name] : String(name).split(", "));
    const indices = names.map((_, i) => i).filter((i) => known(names[i]).some(fits));
    if (!indices.length) return null;
    const part = { ...trace, marker: { ...trace.marker } };
    for (const key of PER_POINT) {
      if (Array.isArray(trace[key]) && trace[key].length === names.length) part[key] = keep(trace[key], indices);
    }
    for (const key of ["color", "symbol", "size", "opacity"]) {
      if (trace.marker?.[key]?.length === names.length) part.marker[key] = keep(trace.marker[key], indices);
    }
    const pattern = trace.marker?.pattern;
    if (pattern) {
      part.marker.pattern = { ...pattern, shape: keep(pattern.shape, indices), bgcolor: keep(pattern.bgcolor, indices) };
    }
    const line = trace.marker?.line;
    if (line) {
      part.marker.line = { ...line, color: keep(line.color, indices), width: keep(line.width, indices) };
    }
    for (const axis of ["error_x", "error_y"]) {
      if (!trace[axis]) continue;
      part[axis] = { ...trace[axis] };
      for (const key of ["array", "arrayminus"]) {
        if (Array.isArray(trace[axis][key])) part[axis][key] = keep(trace[axis][key], indices);
      }
    }
    return part;
  };
  // Rows of a figure that are named after settings, without those that nothing is left of.
  const narrow = (figure) => {
    for (const [name, axis] of Object.entries(figure.layout)) {
      if (!/^yaxis\d*$/.test(name) || !Array.isArray(axis.categoryarray) || !asked().length) continue;
      const used = new Set(
        figure.data.filter((t) => `yaxis${(t.yaxis ?? "y").slice(1)}` === name)
          .flatMap((t) => (Array.isArray(t.y) ? t.y : [])),
      );
      const left = axis.categoryarray.map((_, i) => i).filter((i) => used.has(axis.categoryarray[i]));
      for (const key of ["categoryarray", "tickvals", "ticktext"]) axis[key] = keep(axis[key], left);
    }
  };
  // Pixels of a figure on paper: A4 and Letter between margins, less the panel's edge.
  const PRINTED_PX = 656;
  let isPrinting = false;
  const draw = (slot, choice) => {
    const source = slot.querySelector(`script[data-choice="${choice}"]`);
    if (!source) return;
    const figure = JSON.parse(source.textContent);
    figure.data = figure.data.map(filtered).filter(Boolean);
    narrow(figure);
    // A finger that drags scrolls the page; plotly would zoom.
    if (touch || compact) figure.layout.dragmode = false;
    // Given, and not the window's: paper is narrower, and the browser measures it too late.
    if (isPrinting) {
      figure.layout.width = PRINTED_PX;
      // Two figures fit a page; rows keep the height that their names need.
      if (!Object.values(figure.layout).some((axis) => axis?.type === "category")) figure.layout.height *= 0.85;
    }
    if (compact && !isPrinting) {
      figure.layout.font.size = 12;
      // Legends have one column here; the plot keeps its height.
      figure.layout.height += 9 * figure.data.filter((trace) => trace.showlegend !== false).length;
    }
    const target = slot.querySelector(".plot");
    target.style.height = `${figure.layout.height}px`;
    const own = isPrinting ? { ...config, responsive: false, staticPlot: true } : config;
    window.Plotly.react(target, figure.data, figure.layout, own);
  };
  const sections = [];
  for (const section of document.querySelectorAll("section")) {
    const slots = [...section.querySelectorAll(".slot")];
    const control = section.querySelector(".control");
    const chosen = () => (control ? (control.value ?? control.querySelector(":checked").value) : "0");
    const drawAll = () => slots.forEach((slot) => draw(slot, chosen()));
    if (control) control.addEventListener("change", drawAll);
    if (!slots.length) continue;
    let isDrawn = false;
    for (const box of filters) box.addEventListener("change", () => isDrawn && drawAll());
    // Drawn shortly before it scrolls into view, so that the answer appears at once.
    const observer = new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting)) drawFirst();
    }, { rootMargin: "1200px" });
    const drawFirst = () => {
      observer.disconnect();
      isDrawn = true;
      drawAll();
    };
    sections.push(drawFirst);
    observer.observe(section);
  }
  const hideRows = () => {
    for (const row of document.querySelectorAll("tr[data-facet]")) row.hidden = !row.dataset.facet.split("\n").some(fits);
  };
  for (const box of filters) box.addEventListener("change", hideRows);
  const drawEach = (printing) => () => {
    isPrinting = printing;
    for (const drawFirst of sections) drawFirst();
  };
  window.addEventListener("beforeprint", drawEach(true));
  window.addEventListener("afterprint", drawEach(false));
})();
