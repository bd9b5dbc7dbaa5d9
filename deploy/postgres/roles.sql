-- OPM's roles: creates those that are missing, sets their passwords, and makes opm_owner the owner of this database and of what
-- the connecting superuser owns in it. Run it before migrating, as often as you like. See docs/postgresql.md, "Roles".
--
--   psql --no-psqlrc --set secrets=/etc/opm/secrets --file deploy/postgres/roles.sql postgresql://postgres@HOST/opm
--
-- The folder `secrets` (default: /run/secrets) has a file with each role's URL and, if there are backups, backup-password.
\set ON_ERROR_STOP on
\set QUIET on
\set SHOW_CONTEXT never
\if :{?secrets}
\else
  \set secrets /run/secrets
\endif

-- Keeps the passwords below out of the server's log and out of pg_stat_statements.
SET log_statement = none;
SET log_duration = off;
SET log_min_duration_statement = -1;
SET log_min_duration_sample = -1;
SET log_transaction_sample_rate = 0;
SET auto_explain.log_min_duration = -1;
SET log_min_error_statement = panic;
SET pg_stat_statements.track_utility = off;
SET client_min_messages = warning;
-- A superuser must not call a function that the owner of `public` made.
SET search_path = pg_catalog;
-- Others wait at most this long behind a change of owner. If one fails, run this file again.
SET lock_timeout = '5s';

\set owner `cat :'secrets'/owner-database-url`
SELECT format('DO %L', format('BEGIN RAISE EXCEPTION USING message = %L; END',
  format('this is the database %s, but owner-database-url names %s', current_database(), named)))
FROM substring(:'owner' FROM '^postgres(?:ql)?://[^/]*/([^?]+)') AS named WHERE named <> current_database() \gexec

SELECT format('CREATE ROLE %I', name)
FROM unnest('{opm_owner,opm_ingress,opm_worker,opm_console,opm_cli,opm_backup}'::text[]) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec

SELECT format('ALTER ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', name)
FROM unnest('{opm_owner,opm_ingress,opm_worker,opm_console,opm_cli}'::text[]) AS name \gexec
ALTER ROLE opm_backup LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE REPLICATION NOBYPASSRLS;
-- So that these two leave sessions to the others; ingresses and workers have no limit, because nobody knows how many run.
ALTER ROLE opm_console CONNECTION LIMIT 30;
ALTER ROLE opm_cli CONNECTION LIMIT 30;

\set ingress `cat :'secrets'/ingress-database-url`
\set worker `cat :'secrets'/worker-database-url`
\set console `cat :'secrets'/console-database-url`
\set cli `cat :'secrets'/opm-database-url`
\set backup `cat :'secrets'/backup-password 2>/dev/null`

-- In a URL, %41 stands for A.
WITH urls (role, file, url) AS (
  VALUES
    ('opm_owner', 'owner-database-url', :'owner'),
    ('opm_ingress', 'ingress-database-url', :'ingress'),
    ('opm_worker', 'worker-database-url', :'worker'),
    ('opm_console', 'console-database-url', :'console'),
    ('opm_cli', 'opm-database-url', :'cli')
), encoded AS (
  SELECT role, file, substring(url FROM '^postgres(?:ql)?://' || role || ':([^@/]+)@') AS password FROM urls
), decoded AS (
  SELECT role, file, convert_from(string_agg(
    CASE WHEN part LIKE '\%__' THEN decode(substr(part, 2), 'hex') ELSE convert_to(part, 'UTF8') END, '' ORDER BY place
  ), 'UTF8') AS password
  FROM encoded LEFT JOIN LATERAL regexp_matches(password, '%[[:xdigit:]]{2}|.', 'g') WITH ORDINALITY AS parts (match, place)
    ON true, LATERAL (SELECT match[1]) AS matched (part)
  GROUP BY role, file
)
SELECT CASE
  WHEN password IS NOT NULL THEN format('ALTER ROLE %I PASSWORD %L', role, password)
  ELSE format('DO %L', format('BEGIN RAISE EXCEPTION USING message = %L; END',
    format('%s must have a URL of the form postgresql://%s:PASSWORD@…', file, role)))
END
FROM decoded ORDER BY password IS NOT NULL \gexec

SELECT format('ALTER ROLE opm_backup PASSWORD %L', :'backup') WHERE :'backup' <> '' \gexec

SELECT format('ALTER SCHEMA %I OWNER TO opm_owner', nspname) FROM pg_namespace
WHERE nspowner = current_user::regrole AND nspname !~ '^pg_' AND nspname <> 'information_schema' \gexec

-- Indexes, the sequences of columns and the types of rows follow their tables. Objects of extensions stay.
SELECT format('ALTER %s %s OWNER TO opm_owner', kind, name)
FROM (
  SELECT 'pg_class'::regclass, oid, 'TABLE', oid::regclass::text, relnamespace, relowner
  FROM pg_class WHERE relkind IN ('r', 'p', 'f', 'v', 'm', 'S')
  UNION ALL
  SELECT 'pg_proc'::regclass, oid, 'ROUTINE', oid::regprocedure::text, pronamespace, proowner FROM pg_proc
  UNION ALL
  SELECT 'pg_type'::regclass, oid, 'TYPE', oid::regtype::text, typnamespace, typowner FROM pg_type
) AS found (catalog, id, kind, name, namespace, owner)
JOIN pg_namespace ON pg_namespace.oid = namespace
WHERE owner = current_user::regrole AND nspname !~ '^pg_' AND nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = catalog AND objid = id AND deptype IN ('a', 'e', 'i'))
ORDER BY kind, name \gexec

SELECT format('ALTER DATABASE %I OWNER TO opm_owner', datname) FROM pg_database
WHERE datname = current_database() AND datdba <> 'opm_owner'::regrole \gexec

-- PUBLIC is every role: without this, OPM's roles could use the databases that PostgreSQL itself creates.
SELECT format('REVOKE CONNECT ON DATABASE %I FROM PUBLIC', datname) FROM pg_database
WHERE datname IN ('postgres', 'template1') \gexec
-- The backup reads the state of its replication slot there.
SELECT 'GRANT CONNECT ON DATABASE postgres TO opm_backup' FROM pg_database WHERE datname = 'postgres' \gexec
-- OPM has no large objects. Without this, every role could fill the disk with them.
REVOKE EXECUTE ON FUNCTION lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea) FROM PUBLIC;
