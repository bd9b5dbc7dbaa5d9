import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { getHeapStatistics } from 'node:v8';
import { LIMITS } from '@opm/contract';
import { contextOf, type RequestContext } from './express-classes.js';

/** Of one connection: Node reads thousands of requests at once, and each takes a part of one turn of the event loop. */
const MAX_UNANSWERED = 100;
/** That what waits for its answer, or to be read, may take per connection; one request alone may always take more. */
const MAX_HELD_BYTES = 512 * 1024;
/** What Node and Express keep of a request besides the text of its headers, and of each name or value of these; measured. */
const REQUEST_BYTES = 4 * 1024;
const HEADER_BYTES = 48;
/** Part of the heap that all connections may hold together. */
const MAX_HEAP_SHARE = 1 / 4;

const IDLE_MS = 65_000;
const CHECK_INTERVAL_MS = 5_000;
/** As the operating system may report progress in steps of 1 MiB, a lower floor could not be told from nothing. */
const MIN_TAKEN_BYTES = 1024 * 1024;

/** A partner's connection, and what it holds in memory. */
export type Connection = {
  readonly socket: Socket;
  /** Counts what else is kept for a request until its answer has been taken: that is, by the operating system. */
  hold(context: RequestContext, bytes: number): void;
  /** Counts a small HTTP chunk. False: it is one too many of those whose requests are not answered yet. */
  mayTakeSmallChunk(): boolean;
};

type State = Connection & {
  unanswered: number;
  heldBytes: number;
  smallChunks: number;
  /** The turn of the event loop in which the newest of them came. */
  smallChunkTurn: number;
  newest: ServerResponse<IncomingMessage> | undefined;
  /** Whether an answer has told the client that it is the last one. */
  isEnding: boolean;
  /** Whether it took too much. What it holds is free when the event loop comes to closing it, after all that can be read by then. */
  isEnded: boolean;
  seen: { since: number; moved: number; taken: number; isUnread: boolean };
};

/**
 * Drops what has been read, and will be, behind the present request. Node has no way to do so: it would make a request and a
 * response of all that came in one piece, thousands of them, and keep these until the connection has been closed.
 */
function stopParsing(socket: Socket): void {
  const { parser } = socket as Socket & { parser?: { onIncoming?: () => number } };
  if (parser?.onIncoming) parser.onIncoming = () => SKIP_REST;
}

/** Bytes that the operating system has taken, also of an answer that it has not taken as a whole: of these Node itself knows. */
function toTaken(socket: Socket): number {
  const { _handle: handle } = socket as Socket & { _handle?: { bytesWritten: number; writeQueueSize: number } };
  return handle ? handle.bytesWritten - handle.writeQueueSize : 0;
}

/** What Node's parser takes for: another protocol begins here. */
const SKIP_REST = 2;

/**
 * Ends connections that take too much: those with too many requests, or bytes, that wait for their answer or to be read; those
 * that hold more than others where all together hold too much; those that read too slowly; and idle ones. Node's own
 * time-outs would set two timers for each request.
 */
export function watchConnections(
  server: Server,
  {
    onEnd,
    maxHeldBytes = getHeapStatistics().heap_size_limit * MAX_HEAP_SHARE,
    idleMs = IDLE_MS,
    checkIntervalMs = CHECK_INTERVAL_MS,
  }: {
    /** Hears of each that is ended for what it holds. */
    onEnd?: (() => void) | undefined;
    /** Of all connections together. */
    maxHeldBytes?: number;
    idleMs?: number;
    checkIntervalMs?: number;
  } = {},
) {
  const connections = new Map<Socket, State>();
  let heldBytes = 0;
  let endedBytes = 0;

  server.on('connection', (socket: Socket) => {
    if (connections.has(socket)) return; // see ignoreUpgrade
    const connection: State = {
      socket,
      hold: (context, bytes) => hold(connection, context, bytes),
      mayTakeSmallChunk: () => mayTakeSmallChunk(connection),
      unanswered: 0,
      heldBytes: 0,
      smallChunks: 0,
      smallChunkTurn: 0,
      newest: undefined,
      isEnding: false,
      isEnded: false,
      seen: { since: performance.now(), moved: 0, taken: 0, isUnread: false },
    };
    connections.set(socket, connection);
    socket.on('error', () => {}); // Node listens, but not while an upgrade waits
    socket.once('close', () => {
      connections.delete(socket);
      if (connection.isEnded) endedBytes -= connection.heldBytes;
      else heldBytes -= connection.heldBytes;
    });
  });

  let turn = 0;
  let isTurnCounted = false;
  function mayTakeSmallChunk(connection: State): boolean {
    if (!isTurnCounted) {
      isTurnCounted = true;
      setImmediate(() => {
        turn++;
        isTurnCounted = false;
      });
    }
    connection.smallChunkTurn = turn;
    return ++connection.smallChunks <= LIMITS.smallChunks;
  }

  function hold(connection: State, context: RequestContext, bytes: number): void {
    if (connection.isEnded) return;
    context.heldBytes += bytes;
    connection.heldBytes += bytes;
    heldBytes += bytes;
    const { unanswered } = connection;
    const isTooMuch = connection.heldBytes > MAX_HELD_BYTES || heldBytes + endedBytes > maxHeldBytes;
    if (unanswered > MAX_UNANSWERED || (unanswered > 1 && isTooMuch)) end(connection);
    else if (heldBytes > maxHeldBytes) shed();
  }

  /** So many that the next time is far. */
  function shed(): void {
    const share = maxHeldBytes / 2 / connections.size;
    for (const connection of connections.values()) {
      if (connection.heldBytes > share && !connection.isEnded) end(connection);
    }
  }

  function end(connection: State): void {
    connection.isEnded = true;
    heldBytes -= connection.heldBytes;
    endedBytes += connection.heldBytes;
    stopParsing(connection.socket);
    connection.socket.destroy();
    onEnd?.();
  }

  function onAnswered(this: ServerResponse<IncomingMessage>): void {
    const connection = connections.get(this.req.socket);
    if (!connection || connection.isEnded) return;
    const bytes = contextOf(this).heldBytes;
    connection.unanswered--;
    connection.heldBytes -= bytes;
    heldBytes -= bytes;
    if (connection.newest === this && this.req.complete && !isEnding(connection)) connection.newest = undefined;
  }

  function isEnding(connection: State): boolean {
    connection.isEnding ||= connection.newest?.getHeader('connection') === 'close';
    return connection.isEnding;
  }

  function check({ socket, seen }: State, now: number): void {
    const isUnread = socket.writableLength > 0;
    const moved = socket.bytesRead + socket.bytesWritten;
    const taken = toTaken(socket);
    const isSame = isUnread ? seen.isUnread : moved === seen.moved;
    if (isSame && now - seen.since < idleMs) return;
    if (isSame && !(isUnread && taken - seen.taken >= MIN_TAKEN_BYTES)) socket.destroy();
    else Object.assign(seen, { since: now, moved, taken, isUnread });
  }

  const timer = setInterval(() => {
    const now = performance.now();
    for (const connection of connections.values()) check(connection, now);
  }, checkIntervalMs);

  return {
    /** False for a request that must not be handled: its connection has been ended, or the answer before it will end it. */
    take({ socket, rawHeaders }: IncomingMessage, response: ServerResponse<IncomingMessage>): boolean {
      const connection = connections.get(socket);
      if (!connection || connection.isEnded) return false;
      if (isEnding(connection)) stopParsing(socket);
      // In one turn, requests that are answered at once would each have as many as they like.
      if (connection.unanswered === 0 && connection.smallChunkTurn !== turn) connection.smallChunks = 0;
      connection.newest = response;
      connection.unanswered++;
      const context = contextOf(response);
      context.connection = connection;
      response.on('close', onAnswered);
      let bytes = REQUEST_BYTES + HEADER_BYTES * rawHeaders.length;
      for (const text of rawHeaders) bytes += text.length;
      hold(connection, context, bytes);
      return !(connection.isEnding || connection.isEnded);
    },
    /** Whether its last answer is under way, or it has been ended: what still comes over it does not matter. */
    isEnding(socket: Socket): boolean {
      const connection = connections.get(socket);
      return !connection || connection.isEnded || isEnding(connection);
    },
    /** Whether an answer to what cannot be read would not be taken for that to another request, nor be a second one. */
    mayAnswer(socket: Socket): boolean {
      const { unanswered, newest } = connections.get(socket) ?? { unanswered: 0 };
      if (!newest || newest.req.complete) return unanswered === 0;
      return unanswered === 1 && !newest.headersSent;
    },
    /** Calls back once all requests of a connection are answered that have been read; never, if it ends before. */
    onceAnswered(socket: Socket, proceed: () => void): void {
      const { newest, unanswered = 0 } = connections.get(socket) ?? {};
      if (!newest || unanswered === 0) proceed();
      else newest.once('close', () => socket.destroyed || proceed());
    },
    /** Ends those that have not said a word yet: balancers keep some in stock. */
    endSilent() {
      for (const socket of connections.keys()) if (socket.bytesRead === 0) socket.destroy();
    },
    endAll() {
      for (const socket of connections.keys()) socket.destroy();
    },
    stop: () => clearInterval(timer),
  };
}
