/** What the console says and to whom; a pino logger is one. */
export interface ConsoleLogger {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}
