/** A process that faults are done to. Each call changes nothing where that is so already. */
export type Victim = {
  readonly name: string;
  /** Resolves when it is gone: SIGTERM asks it to go, SIGKILL does not. */
  end(signal: 'SIGTERM' | 'SIGKILL'): Promise<void>;
  /** On the port that it had; resolves when it is ready. */
  start(): Promise<void>;
  /** It is there, and does nothing. */
  freeze(): Promise<void>;
  thaw(): Promise<void>;
};
