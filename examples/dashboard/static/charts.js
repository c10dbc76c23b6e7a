// The four charts of the host. They share a cursor: pointing at one shows the values of all.

import { colour, onThemeChange } from './theme.js';
import { clock } from './format.js';

const SPAN = 180; // seconds on display
const BREAK = 2.5; // a longer pause between two samples is drawn as a hole
const FONT = '11px "Liberation Sans", Roboto, "Segoe UI", sans-serif';

export class Chart {
  #plot;
  #data;
  #format;
  #readout;

  /** `series` are [label, colour variable]; `range` maps the highest value to the scale's end. */
  constructor(box, { series, range, format }) {
    this.#format = format;
    this.#data = [[], ...series.map(() => [])];
    this.#readout = Object.assign(document.createElement('output'), { className: 'readout' });
    box.append(this.#readout);
    const options = this.#options(box, series, range);
    this.#plot = new uPlot(options, this.#data, box);
    new ResizeObserver(() => {
      this.#plot.setSize({ width: box.clientWidth, height: box.clientHeight });
    }).observe(box);
    onThemeChange(() => this.#plot.redraw(false));
  }

  push(at, values) {
    const [times] = this.#data;
    const last = times.at(-1);
    if (last !== undefined && at <= last) return;
    if (at - last > BREAK) this.#append(last + 1, values.map(() => null));
    this.#append(at, values);
    while (times[0] < at - SPAN) this.#data.forEach((column) => column.shift());
    this.#plot.setData(this.#data);
  }

  #append(at, values) {
    [at, ...values].forEach((value, column) => this.#data[column].push(value));
  }

  #options(box, series, range) {
    const axis = { stroke: () => colour('--ink-3'), font: FONT, ticks: { show: false } };
    const now = () => this.#data[0].at(-1) ?? Date.now() / 1000;
    return {
      width: box.clientWidth,
      height: box.clientHeight,
      padding: [10, 16, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, sync: { key: 'host' } },
      scales: {
        x: { range: () => [now() - SPAN, now()] },
        y: { range: (plot, low, high) => [0, range(high ?? 0)] },
      },
      axes: [
        {
          ...axis,
          size: 20,
          gap: 4,
          grid: { show: false },
          incrs: [60],
          values: (plot, splits) => splits.map((at) => clock(at * 1000).slice(0, 5)),
        },
        {
          ...axis,
          size: 56,
          gap: 4,
          space: 26,
          grid: { stroke: () => colour('--line'), width: 1 },
          values: (plot, splits) => splits.map(this.#format),
        },
      ],
      series: [
        {},
        ...series.map(([label, name], index) => ({
          label,
          stroke: () => colour(name),
          fill: index === 0 ? () => colour(`${name}-soft`) : undefined,
          width: 1.5,
          points: { show: false },
        })),
      ],
      hooks: { setCursor: [(plot) => this.#read(plot, series)] },
    };
  }

  #read(plot, series) {
    const index = plot.cursor.idx;
    const at = this.#data[0][index];
    const values = series.map(([label], column) => {
      const value = this.#data[column + 1][index];
      const text = value == null ? 'no sample' : this.#format(value);
      return series.length > 1 ? `${label} ${text}` : text;
    });
    this.#readout.value = at === undefined ? '' : `${clock(at * 1000)}  ${values.join('  ')}`;
  }
}
