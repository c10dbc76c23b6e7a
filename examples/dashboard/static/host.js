// The cards of the host: a number, a line of detail, a chart.

import { Chart } from './charts.js';
import { bytes, duration, rate, size } from './format.js';

const percent = (label) => ({
  series: [[label, '--accent']],
  range: () => 100,
  format: (value) => `${Math.round(value)} %`,
});
const perSecond = (...labels) => ({
  series: labels.map((label, index) => [label, ['--accent', '--second'][index]]),
  range: (high) => Math.max(high * 1.15, 10000),
  format: rate,
});

class Card {
  constructor(name, chart) {
    const box = document.querySelector(`[data-card="${name}"]`);
    this.box = box;
    this.value = box.querySelector('[data-value]');
    this.unit = box.querySelector('[data-unit]');
    this.sub = box.querySelector('[data-sub]');
    this.chart = new Chart(box.querySelector('[data-chart]'), chart);
  }

  show([value, unit], sub) {
    this.value.textContent = value;
    this.unit.textContent = unit;
    this.sub.textContent = sub;
  }
}

export class Host {
  #cpu = new Card('cpu', percent('busy'));
  #memory = new Card('memory', percent('used'));
  #disk = new Card('disk', perSecond('read', 'write'));
  #network = new Card('network', perSecond('in', 'out'));
  #cores = document.getElementById('cores');

  show(now, timestamp) {
    document.getElementById('host').textContent =
      `${now.host} · ${now.system} · up ${duration(now.uptime)}`;
    const cores = `${now.cores.length} core${now.cores.length === 1 ? '' : 's'}`;
    this.#cpu.show([now.cpu.toFixed(0), '%'], `${cores}, load ${now.load.join('  ')}`);
    this.#memory.show(
      [now.memory.toFixed(0), '%'],
      `${size(now.memory_used)} of ${size(now.memory_total)}, swap ${now.swap.toFixed(0)} %`,
    );
    this.#disk.show(
      [now.disk.toFixed(0), '%'],
      `read ${rate(now.disk_read)}, write ${rate(now.disk_write)}`,
    );
    const [value, unit] = bytes(now.received + now.sent);
    this.#network.show([value, `${unit}/s`], `in ${rate(now.received)}, out ${rate(now.sent)}`);

    document.getElementById('memory-meter').style.width = `${now.memory}%`;
    document.getElementById('disk-meter').style.width = `${now.disk}%`;
    this.#showCores(now.cores);
    for (const [source, card] of [['cpu', this.#cpu], ['memory', this.#memory]]) {
      card.box.toggleAttribute('data-alert', now.alerts.includes(source));
    }

    this.#cpu.chart.push(timestamp, [now.cpu]);
    this.#memory.chart.push(timestamp, [now.memory]);
    this.#disk.chart.push(timestamp, [now.disk_read, now.disk_write]);
    this.#network.chart.push(timestamp, [now.received, now.sent]);
  }

  #showCores(cores) {
    while (this.#cores.children.length < cores.length) {
      this.#cores.append(document.createElement('i'));
    }
    cores.forEach((busy, index) => {
      this.#cores.children[index].style.setProperty('--busy', `${busy}%`);
    });
  }
}
