// Draws each figure from the JSON beside it. A slot holds one figure per choice of its control.
(() => {
  const compact = window.matchMedia("(max-width: 640px)").matches;
  const touch = window.matchMedia("(pointer: coarse)").matches;
  const config = {
    responsive: true, displaylogo: false, scrollZoom: false, displayModeBar: touch || compact ? false : "hover",
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
  };
  const draw = (slot, choice) => {
    const source = slot.querySelector(`script[data-choice="${choice}"]`);
    if (!source) return;
    const figure = JSON.parse(source.textContent);
    // A finger that drags scrolls the page; plotly would zoom.
    if (touch || compact) figure.layout.dragmode = false;
    if (compact) {
      figure.layout.font.size = 12;
      // Legends have one column here; the plot keeps its height.
      figure.layout.height += 9 * figure.data.filter((trace) => trace.showlegend !== false).length;
    }
    const target = slot.querySelector(".plot");
    target.style.height = `${figure.layout.height}px`;
    window.Plotly.react(target, figure.data, figure.layout, config);
  };
  for (const section of document.querySelectorAll("section")) {
    const slots = [...section.querySelectorAll(".slot")];
    const control = section.querySelector(".control");
    const chosen = () => (control ? (control.value ?? control.querySelector(":checked").value) : "0");
    const drawAll = () => slots.forEach((slot) => draw(slot, chosen()));
    if (control) control.addEventListener("change", drawAll);
    if (!slots.length) continue;
    // Drawn shortly before it scrolls into view, so that the answer appears at once.
    const observer = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      observer.disconnect();
      drawAll();
    }, { rootMargin: "1200px" });
    observer.observe(section);
  }
  window.addEventListener("beforeprint", () => {
    for (const plot of document.querySelectorAll(".js-plotly-plot")) window.Plotly.Plots.resize(plot);
  });
})();
