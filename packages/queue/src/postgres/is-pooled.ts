import pg from 'pg';

/**
 * Whether something stands in between that hands sessions from client to client, as PgBouncer does: then it is not the
 * session that answers which the connection was opened to. @throws the error of the connection
 */
export async function isPooled(
  connection: Pick<pg.ClientConfig, 'connectionString' | 'connectionTimeoutMillis'>,
): Promise<boolean> {
  const client: pg.Client & { processID?: number } = new pg.Client(connection);
  await client.connect();
  try {
    const { rows } = await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
    return rows[0]?.pid !== client.processID;
  } finally {
    await client.end();
  }
}
