// One chart: a figure with uPlot in it, a legend whose values follow the pointer, and a table with
// the latest values for those who do not see the picture.
"use strict";
(() => {
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const shade = (number) => css(number < 0 ? "--sx" : `--s${number % 8}`);
  const short = (value) =>
    value == null ? "–" : value >= 10000 ? `${(value / 1000).toPrecision(3)} k`
      : value >= 100 || Number.isInteger(value) ? Math.round(value).toLocaleString("en") : value.toFixed(1);

  const clock = (at, precise) => {
    const parts = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
    if (precise) parts.second = "2-digit";
    return new Date(at * 1000).toLocaleTimeString([], parts);
  };

  class Chart {
    constructor(figure) {
      this.figure = figure;
      this.stacked = "stacked" in figure.dataset;
      this.unit = figure.dataset.unit;
      this.most = Number(figure.dataset.max) || null;
      this.data = { x: [], names: [], shades: [], rows: [] };
      this.title = document.getElementById(figure.closest("section").getAttribute("aria-labelledby"));
      this.picture = document.createElement("div");
      this.picture.className = "picture";
      this.picture.setAttribute("role", "img");
      this.legend = document.createElement("ul");
      this.legend.className = "legend";
      figure.append(this.picture, this.legend);
      new ResizeObserver(() => this.resize()).observe(this.picture);
      document.addEventListener("theme", () => this.rebuild());
    }

    whole(data) {
      const same = this.plot && JSON.stringify([data.names, data.shades]) === JSON.stringify([this.data.names, this.data.shades]);
      this.data = data;
      if (same) this.draw();
      else this.rebuild();
    }

    point({ x, values }) {
      const { data } = this;
      const last = data.x.length - 1;
      if (data.x[last] === x) {
        values.forEach((value, i) => { data.rows[i][last] = value; });
      } else {
        data.x.push(x);
        values.forEach((value, i) => data.rows[i].push(value));
        while (data.x.length > 900) {
          data.x.shift();
          data.rows.forEach((row) => row.shift());
        }
      }
      this.draw();
    }

    // Stacked: each series is drawn down to zero, the highest sum first.
    columns() {
      const { x, rows } = this.data;
      if (!this.stacked) return [x, ...rows];
      const sums = new Array(x.length).fill(0);
      return [x, ...rows.map((row) => row.map((v, i) => (sums[i] += v))).reverse()];
    }

    series() {
      const { names, shades } = this.data;
      const made = names.map((label, i) => {
        const stroke = shade(shades[i]);
        return this.stacked
          ? { label, stroke, fill: stroke, width: 0, points: { show: false }, paths: uPlot.paths.bars({ size: [0.86, 40], gap: 0 }) }
          : { label, stroke, width: 1.75, points: { show: false } };
      });
      return [{}, ...(this.stacked ? made.reverse() : made)];
    }

    rebuild() {
      if (!window.uPlot || !this.data.names.length) return;
      this.plot?.destroy();
      const axis = { stroke: css("--soft"), font: "11px system-ui, sans-serif", grid: { stroke: css("--grid"), width: 1 }, ticks: { show: false } };
      this.plot = new uPlot({
        ...this.size(),
        series: this.series(),
        legend: { show: false },
        padding: [8, 18, 0, 0],
        cursor: { y: false, points: { show: !this.stacked }, drag: { x: false, y: false } },
        scales: { x: { time: true, range: (_, min, max) => this.span(min, max) },
          y: { range: (_, __, max) => [0, this.most ?? Math.max(max * 1.08, this.stacked ? 1 : 4)] } },
        axes: [
          { ...axis, space: 70, size: 26, values: (_, ticks, __, ___, step) => ticks.map((t) => clock(t, step < 60)) },
          { ...axis, space: 28, size: 44, values: (_, ticks) => ticks.map((v) => (this.most ? `${v} %` : short(v))) },
        ],
        hooks: { setCursor: [() => this.tell()] },
      }, this.columns(), this.picture);
      this.list();
      this.tell();
    }

    // From the first value on, but not less than some minutes.
    span(min, max) {
      if (!this.stacked) return [Math.min(min, max - 120), max];
      const first = this.data.x.find((_, i) => this.data.rows.some((row) => row[i] > 0)) ?? max;
      return [Math.max(min - 5, Math.min(first - 10, max - 300)), max + 5];
    }

    size() {
      return { width: Math.max(200, this.picture.clientWidth), height: this.picture.clientHeight || 200 };
    }

    resize() {
      this.plot?.setSize(this.size());
    }

    draw() {
      if (!this.plot) return this.rebuild();
      this.plot.setData(this.columns());
      this.tell();
    }

    list() {
      this.legend.replaceChildren(...this.data.names.map((name, i) => {
        const item = document.createElement("li");
        const swatch = document.createElement("span");
        swatch.className = `swatch s${this.data.shades[i] < 0 ? "x" : this.data.shades[i] % 8}`;
        const label = document.createElement("span");
        label.textContent = name === "rest" ? "all others" : name;
        const value = document.createElement("b");
        item.append(swatch, label, value);
        return item;
      }));
    }

    // The values under the pointer, else the latest ones.
    tell() {
      const { x, names, rows } = this.data;
      const at = this.plot?.cursor.idx ?? x.length - 1;
      const values = rows.map((row) => row[at]);
      [...this.legend.children].forEach((item, i) => {
        item.lastChild.textContent = short(values[i]);
        item.classList.toggle("dim", !rows[i]?.some((v) => v > 0));
      });
      const latest = names.map((name, i) => `${name} ${short(rows[i].at(-1))}`).join(", ");
      this.picture.setAttribute("aria-label", `${this.title.textContent}, ${this.unit}, now: ${latest}`);
    }
  }

  window.FairgateChart = Chart;
})();
