-- Finds the outcome of a change by the id of the change's row. Outcomes are rare, so the index is small.
CREATE INDEX "audit_log_attempt_idx" ON "audit_log" ((details ->> 'attempt')) WHERE details ->> 'attempt' IS NOT NULL;
