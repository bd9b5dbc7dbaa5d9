export { ANSWERS, type Answer } from './answers.js';
export { type Entry, entrySchema, parseEntry } from './entry.js';
export { FAULTS, Fault, type FaultCode } from './faults.js';
