import { describe, expect, test } from '@jest/globals';
import { maskErrorMessage, maskStackTrace } from './mask-error-text.js';
import { MASK } from './mask-job-data.js';

describe('maskErrorMessage', () => {
  test.each([
    ['job stalled more than allowable limit', 'job stalled more than allowable limit'],
    [
      "job data is not a chunk: data must have required property 'version', data/v must be equal to constant",
      `job data is not a chunk: data must have required property 'version' ${MASK}`,
    ],
    ['connect ECONNREFUSED 10.0.0.5:5432', `connect ECONNREFUSED ${MASK}`],
    ['deadlock detected', 'deadlock detected'],
    ['Raw query failed. Code: `22P02`. Message: `… "ada@example.com"`', `Raw query failed. Code: \`22P02\` ${MASK}`],
    ['invalid input syntax for type inet: "ada@example.com"', `invalid input syntax for type inet ${MASK}`],
    ['value too long for type character varying(255)', 'value too long for type character varying(255)'],
  ])('keeps what is known to hold no value: %s', (message, shown) => {
    expect(maskErrorMessage(message)).toBe(shown);
  });

  test.each(['ada@example.com', 'customer ada: deadlock detected', 'deadlock detected\nada', 'E4711', ''])(
    'masks %j whole',
    (message) => {
      expect(maskErrorMessage(message)).toBe(MASK);
    },
  );
});

describe('maskStackTrace', () => {
  test('keeps the class and the places in the code, not what the message says', () => {
    const frame = '    at async Worker.processJob (file:///app/node_modules/bullmq/dist/esm/classes/worker.js:4:2)';
    const stackTrace = `StoreError: Key (customer_id)=(ada)\nada@example.com\n    at ada@example.com\n${frame}`;
    expect(maskStackTrace(stackTrace)).toBe(`StoreError: ${MASK}\n${frame}`);
  });

  test('keeps a message that is known to hold no value', () => {
    expect(maskStackTrace('StoreError: deadlock detected')).toBe('StoreError: deadlock detected');
  });

  test('masks a trace that does not start with an error class', () => {
    expect(maskStackTrace('ada@example.com\n')).toBe(MASK);
  });
});
