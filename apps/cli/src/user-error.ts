/** What the user can mend: shown as one line, without a stack. */
export class UserError extends Error {
  override readonly name = 'UserError';
}

/** Of what the system says no to, such as ENOSPC; any other error as it is. */
export function toUserError(error: unknown, what: string): unknown {
  const { code, syscall } = error as NodeJS.ErrnoException;
  return syscall === undefined ? error : new UserError(`${what}: ${code}`);
}
