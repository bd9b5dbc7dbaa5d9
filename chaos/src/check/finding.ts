/** What must not be of a customer. */
export type CustomerRule =
  /** A row that no order of the entries explains: an acknowledged one is without effect, or with half of it, or an older one has won. */
  | 'lost'
  /** A value that was never sent, or that was refused. */
  | 'wrong'
  /** 201 for a customer who existed. */
  | 'created twice'
  /** 404 for a customer who existed. */
  | 'forgotten';

/** What must not be of the whole. */
export type StackRule =
  /** Jobs, claims or counts that should have gone. */
  | 'left behind'
  /** A process that ended, or did not end, against what was asked of it. */
  | 'process'
  /** An answer that no fault excuses. */
  | 'answer'
  /** The stack does not come back, or not in time. */
  | 'recovery'
  /** More memory than the backlog explains. */
  | 'memory';

/** A broken promise. `at`: milliseconds on the ledger's clock, when it was seen, or when the entry was sent that it is about. */
export type Finding = { rule: CustomerRule | StackRule; at: number; customerId?: string; what: string };
