// Draws the charts of a report from the JSON beside each canvas and lets its tables be sorted.
"use strict";
(() => {
  const SHAPES = ["circle", "rect", "triangle", "rectRot", "star", "crossRot", "rectRounded", "cross"];
  const DASHES = [[], [6, 3], [2, 3], [8, 3, 2, 3]];
  const NUM_COLOURS = 7;

  const isNarrow = () => document.documentElement.clientWidth < 640;
  // Both ends tell: "gsa@4-4:select=rati…=4,local=1".
  const shortened = (name, longest) =>
    name.length <= longest ? name : name.slice(0, Math.ceil(0.6 * longest)) + "…" + name.slice(-Math.floor(0.4 * longest));
  const rounded = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3).replace(/\.?0+$/, ""));

  const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const lookOf = (number) => ({
    colour: variable(`--look${number % NUM_COLOURS}`),
    shape: SHAPES[number % SHAPES.length],
    dash: DASHES[Math.floor(number / NUM_COLOURS) % DASHES.length],
  });

  // 95 % intervals: a stroke through the point, as Chart.js has none of its own.
  const intervals = {
    id: "intervals",
    afterDatasetsDraw(chart) {
      const { ctx, chartArea, scales } = chart;
      ctx.save();
      ctx.beginPath();
      ctx.rect(chartArea.left - 4, chartArea.top, chartArea.width + 8, chartArea.height);
      ctx.clip();
      ctx.lineWidth = 1;
      chart.data.datasets.forEach((dataset, number) => {
        if (!chart.isDatasetVisible(number)) return;
        ctx.strokeStyle = dataset.borderColor;
        dataset.data.forEach((point, i) => {
          if (point.low == null || point.high == null) return;
          const { x } = chart.getDatasetMeta(number).data[i];
          const low = scales.y.getPixelForValue(point.low);
          const high = scales.y.getPixelForValue(point.high);
          ctx.beginPath();
          ctx.moveTo(x, low);
          ctx.lineTo(x, high);
          ctx.moveTo(x - 3, low);
          ctx.lineTo(x + 3, low);
          ctx.moveTo(x - 3, high);
          ctx.lineTo(x + 3, high);
          ctx.stroke();
        });
      });
      ctx.restore();
    },
  };

  function shareAxis(data) {
    const values = data.series.flatMap((series) => series.points.map((point) => point.x));
    const min = 2 ** Math.floor(Math.log2(Math.min(...values)) - 0.1);
    const max = Math.max(100, ...values) * 1.1;
    return {
      type: "logarithmic",
      min,
      max,
      afterBuildTicks(axis) {
        axis.ticks = [];
        for (let tick = 100; tick >= min; tick /= 2) axis.ticks.unshift({ value: tick });
      },
      ticks: { callback: (value) => `${rounded(value)} %`, autoSkip: true, maxRotation: 0 },
    };
  }

  // Categories as numbers, so that series can stand beside each other.
  const bucketAxis = (labels) => ({
    type: "linear",
    min: -0.5,
    max: labels.length - 0.5,
    grid: { display: false },
    afterBuildTicks(axis) {
      axis.ticks = labels.map((_, i) => ({ value: i }));
    },
    ticks: { callback: (value) => labels[value] },
  });

  function scoreAxis(data) {
    const axis = { title: { display: true, text: data.y.title } };
    const top = Math.max(...data.series.flatMap((series) => series.points.map((point) => point.high ?? point.y ?? 0)));
    if (data.y.most === undefined) return axis;
    return { ...axis, beginAtZero: true, suggestedMax: Math.max(top, 10), max: top > 0.8 * data.y.most ? data.y.most : undefined };
  }

  function axesOf(data) {
    if (data.kind === "cost") {
      const callback = (_, i) => shortened(data.y.labels[i], isNarrow() ? 18 : 30);
      return {
        x: { beginAtZero: true },
        y: { type: "category", labels: data.y.labels, grid: { display: false }, ticks: { autoSkip: false, callback } },
      };
    }
    const x = data.kind === "budget" ? shareAxis(data) : bucketAxis(data.x.labels);
    x.title = { display: true, text: data.x.title };
    return { x, y: scoreAxis(data) };
  }

  function pointsOf(data, number) {
    const { points } = data.series[number];
    if (data.kind !== "length") return points;
    const step = 0.6 / Math.max(data.series.length, 4);
    const shift = (number - (data.series.length - 1) / 2) * step;
    return points.map((point) => ({ ...point, x: data.x.labels.indexOf(point.x) + shift }));
  }

  function datasetOf(data, number) {
    const { name, look } = data.series[number];
    const { colour, shape, dash } = lookOf(look);
    const common = { label: name, data: pointsOf(data, number), backgroundColor: colour, borderColor: colour };
    if (data.kind === "cost") return { ...common, barPercentage: 0.8, categoryPercentage: 0.9, minBarLength: 2 };
    return { ...common, pointStyle: shape, borderDash: dash, borderWidth: 2, pointRadius: 5, pointHoverRadius: 7,
             pointBorderWidth: 2, clip: false };
  }

  function tooltipOf(kind, point) {
    if (kind === "cost") return rounded(point.x);
    const interval = point.low == null ? "" : ` (${rounded(point.low)} to ${rounded(point.high)})`;
    const read = kind === "budget" ? `, ${rounded(point.x)} % of the keys` : "";
    return `${point.label}: ${rounded(point.y)}${interval}${read}`;
  }

  function pluginOptions(data) {
    const labels = { usePointStyle: true, boxHeight: 7, padding: 8, color: variable("--ink") };
    labels.generateLabels = (chart) =>
      Chart.defaults.plugins.legend.labels.generateLabels(chart)
        .map((item) => ({ ...item, text: shortened(item.text, isNarrow() ? 26 : 40) }));
    const callbacks = {
      title: (items) => (data.kind === "cost" ? items[0].raw.y : ""),
      label: (item) => tooltipOf(data.kind, item.raw),
    };
    return { legend: { display: data.kind !== "cost", position: "bottom", align: "start", labels }, tooltip: { callbacks } };
  }

  function draw(script) {
    const data = JSON.parse(script.textContent);
    const isBars = data.kind === "cost";
    const scales = axesOf(data);
    for (const scale of Object.values(scales)) {
      scale.grid = { ...scale.grid, color: variable("--line") };
      scale.border = { color: variable("--line") };
      scale.ticks = { ...scale.ticks, color: variable("--dim") };
      scale.title = { ...scale.title, color: variable("--dim") };
    }
    const options = {
      animation: false, responsive: true, maintainAspectRatio: false, indexAxis: isBars ? "y" : "x",
      devicePixelRatio: Math.max(2, window.devicePixelRatio), scales, plugins: pluginOptions(data),
    };
    const datasets = data.series.map((_, number) => datasetOf(data, number));
    const canvas = document.getElementById(script.dataset.canvas);
    return new Chart(canvas, { type: isBars ? "bar" : "line", data: { datasets }, options, plugins: [intervals] });
  }

  function drawAll() {
    Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
    const scripts = [...document.querySelectorAll("script.chart")];
    let charts = scripts.map(draw);
    const drawAgain = () => {
      for (const chart of charts) chart.destroy();
      charts = scripts.map(draw);
    };
    for (const query of ["(prefers-color-scheme: dark)", "print"])
      window.matchMedia(query).addEventListener("change", drawAgain);
  }

  // On paper the numbers behind the charts are open.
  function openForPrint() {
    let opened = [];
    window.addEventListener("beforeprint", () => {
      opened = [...document.querySelectorAll("details:not([open])")];
      for (const details of opened) details.open = true;
    });
    window.addEventListener("afterprint", () => {
      for (const details of opened) details.open = false;
    });
  }

  function sortBy(table, column, isAscending) {
    const body = table.tBodies[0];
    const keyOf = (row) => {
      const cell = row.cells[column];
      if (!cell.classList.contains("number")) return cell.textContent;
      return cell.dataset.value === undefined ? NaN : Number(cell.dataset.value);
    };
    const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
    const rows = [...body.rows].map((row) => ({ row, key: keyOf(row) }));
    const known = rows.filter(({ key }) => !Number.isNaN(key));
    known.sort((a, b) => (isAscending ? compare(a.key, b.key) : compare(b.key, a.key)));
    const unknown = rows.filter(({ key }) => Number.isNaN(key)); // always last
    body.append(...known.concat(unknown).map(({ row }) => row));
  }

  function makeSortable(table) {
    for (const heading of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        const isAscending = heading.getAttribute("aria-sort") !== "ascending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        heading.setAttribute("aria-sort", isAscending ? "ascending" : "descending");
        sortBy(table, heading.cellIndex, isAscending);
      });
    }
  }

  document.querySelectorAll("table.sortable").forEach(makeSortable);
  openForPrint();
  if (document.querySelector("script.chart")) drawAll();
})();
