/** How long a producer's call, and a partner's answer, may take in tests that are not about that, in ms. */
export const ANSWER_TIMEOUT_MS = 30_000;

/**
 * The environment of tests: limits so wide that a slow machine does not reach them. A test that is about one of them sets it
 * for its own processes.
 */
export const WIDE_LIMITS = {
  ANSWER_TIMEOUT_MS: String(ANSWER_TIMEOUT_MS),
  EVENT_LOOP_MAX_DELAY_MS: '600000',
  PENDING_MAX_ENTRIES: '1000000',
  SHUTDOWN_TIMEOUT_MS: '120000',
};
