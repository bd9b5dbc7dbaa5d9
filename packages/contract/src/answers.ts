/** What a partner reads on success. The texts are promised byte for byte. */
export const ANSWERS = {
  pong: { statusCode: 200, message: 'pong' },
  created: { statusCode: 201, message: 'OK - Created' },
  updateAccepted: { statusCode: 202, message: 'OK - Update accepted' },
  multiStatus: { statusCode: 207, message: 'OK - Multi-Status' },
  erasureAccepted: { statusCode: 202, message: 'OK - Erasure accepted' },
} as const;

export type Answer = (typeof ANSWERS)[keyof typeof ANSWERS];
