/** Whether a file system or process call failed with one of these codes. */
export function isErrno(error: unknown, ...codes: string[]): boolean {
  // Not instanceof Error: under Jest, Node's own errors come from another realm.
  return codes.includes((error as NodeJS.ErrnoException | undefined)?.code ?? '');
}
