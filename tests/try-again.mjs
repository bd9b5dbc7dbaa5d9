import { jest } from '@jest/globals';

// An ingress has one second to answer, and refuses by design where the machine stands still for as long. What passed only when
// it was tried again is named at the end of CI, with its error further up: it is to be looked at.
jest.retryTimes(1, { logErrorsBeforeRetry: true });
