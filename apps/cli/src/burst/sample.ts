const SIZE = 100;

/** Some of the numbers from 0 to `total`, evenly spread, and the last that came. */
export class Sample {
  readonly #step: number;
  readonly #kept = new Set<number>();
  #last: number | undefined;

  constructor(total: number) {
    this.#step = Math.ceil(total / SIZE);
  }

  add(n: number): void {
    if (n % this.#step === 0) this.#kept.add(n);
    this.#last = n;
  }

  numbers(): number[] {
    return [...new Set([...this.#kept, ...(this.#last === undefined ? [] : [this.#last])])];
  }
}
