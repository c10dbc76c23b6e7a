// The process table and holdfast's own figures.

import { size } from './format.js';

const ROWS = 8;

export class Processes {
  #rows;

  constructor(body) {
    // All rows exist from the start, so that the first sample does not move the page.
    this.#rows = Array.from({ length: ROWS }, () => {
      const row = body.insertRow();
      for (const name of ['', 'wide', 'wide num', 'num', 'num']) {
        row.insertCell().className = name;
      }
      return row;
    });
  }

  show(processes) {
    this.#rows.forEach((row, index) => {
      const one = processes[index];
      const texts = one
        ? [one.name, one.user, one.pid, `${one.cpu.toFixed(1)} %`, size(one.memory)]
        : ['', '', '', '', ''];
      texts.forEach((text, cell) => {
        row.cells[cell].textContent = text;
      });
      row.cells[0].title = one?.name ?? '';
    });
  }
}

export class Figures {
  #cells;

  /** `figures` maps a field of the statistics to [label, formatter]. */
  constructor(list, figures) {
    this.#cells = Object.entries(figures).map(([name, [label, write]]) => {
      const row = list.appendChild(document.createElement('div'));
      row.appendChild(document.createElement('dt')).textContent = label;
      const cell = row.appendChild(document.createElement('dd'));
      cell.textContent = '–';
      return { name, write, cell };
    });
  }

  show(statistics) {
    for (const { name, write, cell } of this.#cells) {
      if (name in statistics) cell.textContent = write(statistics[name]);
    }
  }
}
