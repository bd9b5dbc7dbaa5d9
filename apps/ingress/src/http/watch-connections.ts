import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { getHeapStatistics } from 'node:v8';
import { LIMITS } from '@opm/contract';
import { type Connection, contextOf, type RequestContext } from './request-context.js';

/** Per connection. Node may parse thousands of pipelined requests in one turn of the event loop. */
const MAX_UNANSWERED = 100;
/** Memory of unanswered requests and unread answers per connection. A single request may always take more. */
const MAX_HELD_BYTES = 512 * 1024;
/** Memory of a request besides the text of its headers, and overhead per header name or value; measured. */
const REQUEST_BYTES = 4 * 1024;
const HEADER_BYTES = 48;
/** Share of the heap that all connections may use together. */
const MAX_HEAP_SHARE = 1 / 4;

const IDLE_MS = 65_000;
const CHECK_INTERVAL_MS = 5_000;
/**
 * A client that reads less than this in `IDLE_MS` is too slow. The operating system may report progress in 1 MiB steps.
 */
const MIN_TAKEN_BYTES = 1024 * 1024;

type State = Connection & {
  unanswered: number;
  heldBytes: number;
  smallChunks: number;
  /** The turn of the event loop in which the last small chunk arrived. */
  smallChunkTurn: number;
  newest: ServerResponse<IncomingMessage> | undefined;
  /** Whether an answer with `connection: close` has been prepared: it is the last one. */
  isEnding: boolean;
  /** Whether the client has ended its side within the newest request. */
  isCutOff: boolean;
  /** Whether the connection is closed, or is being closed for its memory. Its memory counts until the event `close`. */
  isEnded: boolean;
  seen: { since: number; moved: number; taken: number; isUnread: boolean };
};

/**
 * Makes Node's parser discard everything behind the current request. Otherwise Node would create a request and a
 * response for each of possibly thousands of pipelined requests, and keep them until the connection has closed.
 */
function stopParsing(socket: Socket): void {
  const { parser } = socket as Socket & { parser?: { onIncoming?: () => number } };
  if (parser?.onIncoming) parser.onIncoming = () => SKIP_REST;
}

/** Bytes that the operating system has taken from the socket, parts of an unfinished write included. */
function toTaken(socket: Socket): number {
  const { _handle: handle } = socket as Socket & { _handle?: { bytesWritten: number; writeQueueSize: number } };
  return handle ? handle.bytesWritten - handle.writeQueueSize : 0;
}

/** Tells Node's parser that another protocol begins here, so it stops. */
const SKIP_REST = 2;

/**
 * Closes connections that use too many resources:
 * - those with too many unanswered requests, or too much memory for requests and unread answers;
 * - if all connections together use too much memory, those that use the most;
 * - those that read too slowly, and idle ones. Node's own timeouts would set two timers per request.
 */
export function watchConnections(
  server: Server,
  {
    onEnd,
    maxHeldBytes = getHeapStatistics().heap_size_limit * MAX_HEAP_SHARE,
    idleMs = IDLE_MS,
    checkIntervalMs = CHECK_INTERVAL_MS,
  }: {
    /** Called for each connection that is closed because of too many unanswered requests or too much memory. */
    onEnd?: (() => void) | undefined;
    /** Memory of all connections together, in bytes. */
    maxHeldBytes?: number;
    idleMs?: number;
    checkIntervalMs?: number;
  } = {},
) {
  const connections = new Map<Socket, State>();
  let heldBytes = 0;
  let endedBytes = 0;

  server.on('connection', (socket: Socket) => {
    if (connections.has(socket)) return; // ignoreUpgrade emits the event again
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
      isCutOff: false,
      isEnded: false,
      seen: { since: performance.now(), moved: 0, taken: 0, isUnread: false },
    };
    connections.set(socket, connection);
    socket.on('error', () => {}); // Node has a listener of its own, except while an upgrade waits
    socket.once('close', () => {
      connections.delete(socket);
      if (connection.isEnded) endedBytes -= connection.heldBytes;
      else heldBytes -= connection.heldBytes;
      connection.isEnded = true; // its requests may still be answered; nothing would free what they hold
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

  /** Closes every connection above half of the equal share, to free enough memory for a while. */
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
    abortCutOff(connection);
  }

  function abortCutOff({ isCutOff, unanswered, newest }: State): void {
    if (!isCutOff || unanswered > 1 || !newest || newest.req.complete || newest.headersSent) return;
    newest.req.destroy(); // if the request was refused, its connection stays open for the answer
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
    /**
     * Registers a request.
     * @returns false if it must not be handled: its connection is closed or closes with an earlier answer
     */
    take({ socket, rawHeaders }: IncomingMessage, response: ServerResponse<IncomingMessage>): boolean {
      const connection = connections.get(socket);
      if (!connection || connection.isEnded) return false;
      if (isEnding(connection)) stopParsing(socket);
      // Not within the same turn: pipelined requests that are answered at once would each start at 0.
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
    /** Whether the connection is closed or its last answer is being sent. Bytes that still arrive are ignored. */
    isEnding(socket: Socket): boolean {
      const connection = connections.get(socket);
      return !connection || connection.isEnded || isEnding(connection);
    },
    /** Aborts the newest request, of which the client has sent only a part, once those before it are answered. */
    cutOff(socket: Socket): void {
      const connection = connections.get(socket);
      if (!connection) return;
      connection.isCutOff = true;
      abortCutOff(connection);
    },
    /**
     * Whether an answer to unparsable bytes could not be mistaken for the answer to another request, nor be a second
     * one.
     */
    mayAnswer(socket: Socket): boolean {
      const { unanswered, newest } = connections.get(socket) ?? { unanswered: 0 };
      if (!newest || newest.req.complete) return unanswered === 0;
      return unanswered === 1 && !newest.headersSent;
    },
    /**
     * Calls `proceed` once all parsed requests of the connection are answered; never if the connection closes first.
     */
    onceAnswered(socket: Socket, proceed: () => void): void {
      const { newest, unanswered = 0 } = connections.get(socket) ?? {};
      if (!newest || unanswered === 0) proceed();
      else newest.once('close', () => socket.destroyed || proceed());
    },
    /** Closes connections that have sent nothing yet, such as those that load balancers open in advance. */
    endSilent() {
      for (const socket of connections.keys()) if (socket.bytesRead === 0) socket.destroy();
    },
    endAll() {
      for (const socket of connections.keys()) socket.destroy();
    },
    stop: () => clearInterval(timer),
  };
}
