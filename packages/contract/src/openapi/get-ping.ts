import { ANSWERS } from '../answers.js';
import type { Operation } from './operation.js';

export const getPing: Operation = {
  method: 'get',
  path: '/ping',
  operationId: 'getPing',
  tag: 'API key',
  summary: 'Check the key',
  description: 'Does nothing else.',
  parameters: ['requestId'],
  successes: [{ answer: ANSWERS.pong, description: 'The key is good.' }],
  faults: [],
};
