/** A record of a file that is imported. `number` is that of its last line, from 1. */
export type Line = {
  number: number;
  /** As it stands in the file, for people. */
  text: string;
  /** What POST /entry would take for it. @throws Fault that says why it is none */
  toBody: () => unknown;
};
