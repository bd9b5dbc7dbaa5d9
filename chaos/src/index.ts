export { checkRows } from './check/check-rows.js';
export { type ChaosResult, runChaos } from './run-chaos.js';
