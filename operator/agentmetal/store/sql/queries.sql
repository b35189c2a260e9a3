-- name: session
-- Durable at return, whatever the server's default is: with synchronous standbys `on` also waits for them.
-- A session that hangs in a transaction must not hold the lock for long: others give up waiting for it after 5 s.
SELECT set_config('synchronous_commit', 'on', false)
    WHERE current_setting('synchronous_commit') IN ('off', 'local', 'remote_write');
SET lock_timeout = '5s';
SET statement_timeout = '15s';
SET idle_in_transaction_session_timeout = '5s';

-- name: fsync
SELECT current_setting('fsync');

-- name: begin
BEGIN;

-- name: commit
COMMIT;

-- name: lock_migrations
SELECT pg_advisory_xact_lock(hashtext('agentmetal migrations ' || current_schema()));

-- name: has_versions
SELECT to_regclass('agentmetal_version') IS NOT NULL;

-- name: make_versions
CREATE TABLE IF NOT EXISTS agentmetal_version (version integer PRIMARY KEY, applied timestamptz NOT NULL DEFAULT now());

-- name: version
SELECT coalesce(max(version), 0) FROM agentmetal_version;

-- name: migrated
INSERT INTO agentmetal_version (version) VALUES (%s);

-- name: lock
-- One writer at a time. It is held until the transaction before has committed or failed, also one whose client is gone:
-- who has it knows what became of that one.
SELECT pg_advisory_xact_lock('audit'::regclass::oid::bigint);

-- name: head
-- The newest record, and whether a hash that was seen before is (or was) a record.
SELECT coalesce(newest.sequence, first.sequence), coalesce(newest.hash, first.hash),
    %(seen)s = repeat('0', 64)
    OR EXISTS (SELECT FROM audit WHERE hash = %(seen)s)
    OR EXISTS (SELECT FROM audit_removed WHERE hash = %(seen)s)
FROM audit_start AS first
LEFT JOIN (SELECT sequence, hash FROM audit ORDER BY sequence DESC LIMIT 1) AS newest ON true;

-- name: append
INSERT INTO audit (sequence, hash, previous, format, entry) VALUES (%s, %s, %s, %s, %s::json);

-- name: page
SELECT sequence, hash, previous, format, entry::text FROM audit
WHERE sequence > greatest(%s, (SELECT sequence FROM audit_start)) ORDER BY sequence LIMIT %s;

-- name: start
SELECT sequence, hash FROM audit_start;

-- name: places
WITH named AS (
    SELECT left(step, 64) AS hash, sequence FROM audit, json_array_elements_text(entry -> 'steps') AS step
    WHERE action IN ('gap', 'acknowledge') AND action = 'gap')
SELECT wanted.hash, coalesce(audit.sequence, audit_removed.sequence, named.sequence)
FROM unnest(%s::text[]) AS wanted (hash)
LEFT JOIN audit USING (hash) LEFT JOIN audit_removed USING (hash) LEFT JOIN named USING (hash)
WHERE coalesce(audit.sequence, audit_removed.sequence, named.sequence) IS NOT NULL;

-- name: gaps
SELECT sequence, hash, previous, format, entry::text FROM audit
WHERE action IN ('gap', 'acknowledge') AND sequence > (SELECT sequence FROM audit_start) ORDER BY sequence;

-- name: start_after
UPDATE audit_start SET sequence = %s, hash = %s;

-- name: remove
SELECT audit_remove(%s);

-- name: use_digest
INSERT INTO used_digests VALUES (%s, %s) ON CONFLICT DO NOTHING;

-- name: used_by
SELECT coalesce(max(operation), '') FROM used_digests WHERE digest = %s;

-- name: highest_number
SELECT coalesce(max(number), 0) FROM numbers WHERE uid = %s;

-- name: note_number
INSERT INTO numbers VALUES (%s, %s)
ON CONFLICT (uid) DO UPDATE SET number = excluded.number WHERE numbers.number < excluded.number;

-- name: next_epoch
UPDATE epoch SET epoch = greatest(epoch + 1, %s) RETURNING epoch;
