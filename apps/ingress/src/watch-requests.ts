import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

/** Each costs memory and a part of one turn of the event loop, and Node reads thousands of them at once. */
const MAX_UNANSWERED = 100;

type Connection = { unanswered: number; newest: ServerResponse<IncomingMessage>; onAnswered: () => void };

/** Knows which requests of a connection have not been answered: a client may send more before it reads an answer. */
export function watchRequests() {
  const connections = new WeakMap<Socket, Connection>();

  function find(socket: Socket, newest: Connection['newest']): Connection {
    const known = connections.get(socket);
    if (known) return known;
    const connection: Connection = { unanswered: 0, newest, onAnswered: () => connection.unanswered-- };
    connections.set(socket, connection);
    return connection;
  }

  return {
    /** False where its connection has too many that are not answered: the connection has been ended. */
    take({ socket }: IncomingMessage, response: ServerResponse<IncomingMessage>): boolean {
      const connection = find(socket, response);
      connection.unanswered++;
      connection.newest = response;
      response.on('close', connection.onAnswered);
      if (connection.unanswered > MAX_UNANSWERED) socket.destroy();
      return !socket.destroyed;
    },
    /** Whether an answer to what cannot be read would not be taken for that to another request, nor be a second one. */
    mayAnswer(socket: Socket): boolean {
      const { unanswered, newest } = connections.get(socket) ?? { unanswered: 0 };
      if (!newest || newest.req.complete) return unanswered === 0;
      return unanswered === 1 && !newest.headersSent;
    },
  };
}
