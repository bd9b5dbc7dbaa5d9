-- What each role of roles.sql may do. Run it after migrating, as the owner of the tables or a superuser, as often as you like:
--
--   psql --no-psqlrc --file deploy/postgres/grants.sql postgresql://postgres@HOST/opm
--
-- A new table grants nothing to anybody until it has a line here, which a test demands. Keep what the processes of the release
-- before need, because they run until they are replaced. With the queue in PostgreSQL, all processes are the owner.
\set ON_ERROR_STOP on
\set QUIET on
BEGIN;

-- PUBLIC is every role, so also those of other applications.
REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
SELECT format('REVOKE ALL ON %s %s FROM PUBLIC, opm_ingress, opm_worker, opm_console, opm_cli',
  CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, oid::regclass)
FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'f', 'v', 'm', 'S') AND pg_has_role(relowner, 'USAGE')
ORDER BY relname \gexec
GRANT CONNECT ON DATABASE :"DBNAME" TO opm_ingress, opm_worker, opm_console, opm_cli;
GRANT USAGE ON SCHEMA public TO opm_ingress, opm_worker, opm_console, opm_cli;

-- Projects and keys. The worker only names projects in its metrics.
GRANT SELECT ON projects TO opm_ingress, opm_console, opm_cli;
GRANT SELECT (id, name) ON projects TO opm_worker;
GRANT INSERT, UPDATE ON projects TO opm_console, opm_cli;
GRANT DELETE ON projects TO opm_cli;
GRANT USAGE ON SEQUENCE projects_id_seq TO opm_console, opm_cli;

GRANT SELECT ON api_keys TO opm_ingress, opm_cli;
GRANT SELECT (id, project_id, hint, label, scopes, addresses, created_at, expires_at, revoked_at) ON api_keys TO opm_console;
GRANT INSERT, UPDATE (label, expires_at, revoked_at) ON api_keys TO opm_console;
GRANT INSERT, UPDATE, DELETE ON api_keys TO opm_cli;
GRANT USAGE ON SEQUENCE api_keys_id_seq TO opm_console, opm_cli;

-- A trigger of the two tables above writes it.
GRANT SELECT ON access_revision TO opm_ingress;
GRANT SELECT, INSERT, UPDATE ON access_revision TO opm_console, opm_cli;
GRANT DELETE ON access_revision TO opm_cli;

-- Customers, and what became of entries.
GRANT SELECT ON customers TO opm_ingress, opm_console;
GRANT SELECT, INSERT, UPDATE, DELETE ON customers TO opm_worker, opm_cli;

GRANT SELECT ON erasures TO opm_console;
GRANT SELECT, INSERT, UPDATE, DELETE ON erasures TO opm_worker, opm_cli;

GRANT SELECT ON dead_letters TO opm_ingress;
-- UPDATE of a column allows FOR UPDATE.
GRANT SELECT, INSERT, UPDATE (resolved_at), DELETE ON dead_letters TO opm_worker;
GRANT SELECT, UPDATE (payload, error, receipt, field, resolution, resolved_at), DELETE ON dead_letters TO opm_console;
GRANT SELECT, INSERT, UPDATE, DELETE ON dead_letters TO opm_cli;
GRANT USAGE ON SEQUENCE dead_letters_id_seq TO opm_worker, opm_cli;

GRANT SELECT ON high_water_mark TO opm_ingress, opm_console;
GRANT SELECT, INSERT, UPDATE ON high_water_mark TO opm_worker, opm_cli;
GRANT DELETE ON high_water_mark TO opm_cli;

-- Counts and running processes, which ingresses and workers report and workers tidy up.
GRANT SELECT, INSERT, UPDATE ON project_minutes, key_uses TO opm_ingress, opm_worker, opm_cli;
GRANT SELECT, INSERT, UPDATE, DELETE ON processes TO opm_ingress, opm_worker, opm_cli;
GRANT SELECT ON project_days TO opm_ingress;
GRANT SELECT, INSERT, UPDATE ON project_days TO opm_worker, opm_cli;
GRANT DELETE ON project_minutes, project_days TO opm_worker, opm_cli;
GRANT DELETE ON key_uses TO opm_cli;
GRANT SELECT ON project_minutes, project_days, key_uses, processes TO opm_console;

-- Operators. The audit log is append-only.
GRANT SELECT, INSERT, UPDATE, DELETE ON operators TO opm_console, opm_cli;
GRANT SELECT, INSERT, DELETE ON operator_sessions TO opm_console, opm_cli;
GRANT UPDATE ON operator_sessions TO opm_cli;
GRANT SELECT, INSERT ON audit_log TO opm_console, opm_cli;
GRANT USAGE ON SEQUENCE operators_id_seq, audit_log_id_seq TO opm_console, opm_cli;

-- Nothing ON _prisma_migrations, because only the owner migrates.

COMMIT;
