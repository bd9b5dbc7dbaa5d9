export type TimeBudget = ReturnType<typeof toTimeBudget>;

/** How the ingress spends the time that a partner waits for an answer, in whole ms: each part is a fixed share of it. */
export function toTimeBudget(answerTimeoutMs: number) {
  const share = (of: number) => Math.ceil(answerTimeoutMs * of);
  return {
    /** Waiting for a turn behind calls that are under way. Together with `workMs` it is all there is. */
    turnMs: share(1 / 4),
    /** The calls to the stores. */
    workMs: share(3 / 4),
    /** Of `workMs`, kept for the answer in case PostgreSQL does not answer. */
    replyMs: share(1 / 20),
    /** Asking PostgreSQL whether customers exist: if it is slow, that costs a partner the 201 and not the acknowledgement. */
    lookUpMs: share(1 / 5),
    /** A statement of a look-up, or a new connection for it: one that nobody waits for must not keep its place for long. */
    statementMs: share(1 / 2),
    /** A call for tokens. If it hangs for longer, the entry would not be taken either. */
    tokensMs: share(1 / 4),
    /** Waiting behind a call for tokens. Less than that call, so that no second one is made behind one that hangs. */
    tokensTurnMs: share(1 / 5),
    /** A request's headers, and all of it. Never less than what partners are told. */
    headersMs: Math.max(5_000, share(5)),
    requestMs: Math.max(10_000, share(10)),
    /** An idempotency key stays with one request for so long. A batch takes the time of an entry for each group. */
    keyLeaseMs: share(10),
    /** Before the end of the lease nothing new is begun for so long, and what was begun is decided by then. */
    keyMarginMs: share(2),
  };
}
