import type { HostShim } from './host-shim.js';

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

/** One whose clock and disk can be bent. */
export type Host = Victim & { readonly shim: HostShim };

/** A store on a host: `start` also brings back one that has ended by itself. */
export type StoreHost = Host & { answers(): Promise<boolean> };
