export { checkRows } from './check/check-rows.js';
export { type ChaosOptions, type ChaosResult, runChaos } from './run-chaos.js';
