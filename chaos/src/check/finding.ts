/** Rules about one customer. */
export type CustomerRule =
  /**
   * A row that no order of the entries explains: an acknowledged entry has no effect or only half of it, or an older
   * one won.
   */
  | 'lost'
  /** A value that was never sent, or whose entry was refused. */
  | 'wrong'
  /** 201 for a customer who existed. */
  | 'created twice'
  /** 404 for a customer who existed. */
  | 'forgotten';

/** Rules about the whole stack. */
export type StackRule =
  /** Jobs, claims, counts or dead letters that should be gone. */
  | 'left behind'
  /** A process that exited by itself, did not exit when asked to, or exited with an error. */
  | 'process'
  /** An answer that no fault excuses. */
  | 'answer'
  /** The stack did not recover, or not in time. */
  | 'recovery'
  /** More memory than the backlog explains. */
  | 'memory';

/** A broken promise. `at`: when it was found, or when the entry in question was sent, in ms on the ledger's clock. */
export type Finding = { rule: CustomerRule | StackRule; at: number; customerId?: string; what: string };
