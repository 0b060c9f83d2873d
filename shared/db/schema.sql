-- All migrations together: written by `python -m tests.schema_dump`, held by tests/test_migrations.py.

CREATE FUNCTION public.audit_log_refuse() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is only ever added to' USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE FUNCTION public.batches_count() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM after WHERE batch_id IS NOT NULL) THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'INSERT' THEN
        PERFORM FROM batches WHERE id IN (SELECT batch_id FROM after) ORDER BY id FOR NO KEY UPDATE;
        UPDATE batches b SET queued = b.queued + d.n
        FROM (SELECT batch_id, count(*) AS n FROM after WHERE batch_id IS NOT NULL GROUP BY batch_id) d
        WHERE b.id = d.batch_id;
        RETURN NULL;
    END IF;
    PERFORM FROM batches WHERE id IN (
        SELECT a.batch_id FROM after a JOIN before o USING (id) WHERE a.state <> o.state
    ) ORDER BY id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    UPDATE batches b SET
        queued = b.queued + d.queued, running = b.running + d.running, succeeded = b.succeeded + d.succeeded,
        failed = b.failed + d.failed, cancelled = b.cancelled + d.cancelled,
        quarantined = b.quarantined + d.quarantined, started_at = coalesce(b.started_at, d.started_at)
    FROM (
        SELECT batch_id, min(started_at) AS started_at,
            coalesce(sum(sign) FILTER (WHERE state = 'queued'), 0) AS queued,
            coalesce(sum(sign) FILTER (WHERE state = 'running'), 0) AS running,
            coalesce(sum(sign) FILTER (WHERE state = 'succeeded'), 0) AS succeeded,
            coalesce(sum(sign) FILTER (WHERE state = 'failed'), 0) AS failed,
            coalesce(sum(sign) FILTER (WHERE state = 'cancelled'), 0) AS cancelled,
            coalesce(sum(sign) FILTER (WHERE state = 'quarantined'), 0) AS quarantined
        FROM (
            SELECT batch_id, state, started_at, 1 AS sign FROM after
            UNION ALL SELECT batch_id, state, NULL, -1 FROM before
        ) moves
        WHERE batch_id IS NOT NULL GROUP BY batch_id
    ) d WHERE b.id = d.batch_id;
    RETURN NULL;
END $$;

CREATE FUNCTION public.batches_uncount() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM gone WHERE batch_id IS NOT NULL) THEN
        RETURN NULL;
    END IF;
    PERFORM FROM batches WHERE id IN (SELECT batch_id FROM gone) ORDER BY id FOR NO KEY UPDATE;
    UPDATE batches b SET
        total = b.total - d.total, queued = b.queued - d.queued, running = b.running - d.running,
        succeeded = b.succeeded - d.succeeded, failed = b.failed - d.failed, cancelled = b.cancelled - d.cancelled,
        quarantined = b.quarantined - d.quarantined, expired = greatest(b.expired - d.expired, 0)
    FROM (
        SELECT batch_id, count(*) AS total,
            count(*) FILTER (WHERE state = 'queued') AS queued,
            count(*) FILTER (WHERE state = 'running') AS running,
            count(*) FILTER (WHERE state = 'succeeded') AS succeeded,
            count(*) FILTER (WHERE state = 'failed') AS failed,
            count(*) FILTER (WHERE state = 'cancelled') AS cancelled,
            count(*) FILTER (WHERE state = 'quarantined') AS quarantined,
            count(*) FILTER (WHERE state = 'failed' AND error ->> 'type' = 'expired') AS expired
        FROM gone WHERE batch_id IS NOT NULL GROUP BY batch_id
    ) d WHERE b.id = d.batch_id;
    RETURN NULL;
END $$;

CREATE FUNCTION public.delivery_attempts_tenant() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    SELECT tenant_id INTO NEW.tenant_id FROM deliveries WHERE id = NEW.delivery_id;
    RETURN NEW;
END $$;

CREATE FUNCTION public.jobs_hold_stat_share() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'public', 'pg_temp'
    AS $$
DECLARE
    share int := (SELECT stat_share FROM tenants WHERE id = NEW.tenant_id);
BEGIN
    IF (SELECT count(*) FROM (
        SELECT FROM jobs WHERE state = 'queued' AND not_before IS NULL AND tenant_id = NEW.tenant_id AND rank = 0
        LIMIT share
    ) waiting) >= share THEN
        NEW.rank = 1;
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION public.jobs_refuse() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        RAISE EXCEPTION 'job % must begin as queued, not %', NEW.id, NEW.state USING ERRCODE = 'check_violation';
    END IF;
    RAISE EXCEPTION 'job % cannot go from % to %', OLD.id, OLD.state, NEW.state USING ERRCODE = 'check_violation';
END $$;

CREATE FUNCTION public.jobs_result_check() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM results WHERE job_id = NEW.id) THEN
        RAISE EXCEPTION 'job % succeeded without a result', NEW.id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION public.keys_in_force(wanted_prefix text, wanted_id text) RETURNS TABLE(id text, tenant_id text, hash text, scopes text[], expires_at timestamp with time zone)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT k.id, k.tenant_id, k.hash, k.scopes, k.expires_at FROM public.api_keys k
    WHERE (k.prefix = wanted_prefix OR k.id = wanted_id) AND k.revoked_at IS NULL
        AND (k.expires_at IS NULL OR k.expires_at > now())
$$;

CREATE FUNCTION public.queue_lengths() RETURNS TABLE(tenant_id text, jobs bigint)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'public', 'pg_temp'
    AS $$
    SELECT tenant_id, count(*) FROM (
        SELECT tenant_id FROM jobs WHERE state = 'queued' AND not_before IS NULL
        UNION ALL SELECT tenant_id FROM jobs WHERE state = 'queued' AND not_before IS NOT NULL
    ) waiting GROUP BY tenant_id
$$;

CREATE FUNCTION public.results_state_check() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
DECLARE
    stray text;
BEGIN
    SELECT r.job_id INTO stray FROM written r JOIN jobs j ON j.id = r.job_id WHERE j.state <> 'succeeded' LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'job % has a result and did not succeed', stray USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION public.webhook_endpoints_note_change() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    NEW.changed_at = now();
    RETURN NEW;
END $$;

CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);

CREATE TABLE public.api_keys (
    id text NOT NULL,
    tenant_id text NOT NULL,
    name text NOT NULL,
    prefix text NOT NULL,
    hash text NOT NULL,
    scopes text[] NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone,
    revoked_at timestamp with time zone,
    last_used_at timestamp with time zone
);

CREATE TABLE public.artifacts (
    id text NOT NULL,
    tenant_id text NOT NULL,
    job_id text NOT NULL,
    image_id text NOT NULL,
    kind character varying(32) NOT NULL,
    class_name text NOT NULL,
    content bytea NOT NULL,
    media_type text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT ck_artifacts_artifactkind CHECK (((kind)::text = 'heatmap'::text))
);

CREATE TABLE public.audit_log (
    id bigint NOT NULL,
    tenant_id text,
    actor text NOT NULL,
    action text NOT NULL,
    subject text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE public.audit_log ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.audit_log_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.batch_files (
    batch_id text NOT NULL,
    item integer NOT NULL,
    tenant_id text NOT NULL,
    member text,
    group_key text NOT NULL,
    object_key text,
    sha256 text NOT NULL,
    size_bytes bigint NOT NULL,
    info jsonb,
    problem jsonb
);

CREATE TABLE public.batch_rejections (
    batch_id text NOT NULL,
    item integer NOT NULL,
    tenant_id text NOT NULL,
    member text,
    custom_id text,
    problem jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE public.batches (
    id text NOT NULL,
    tenant_id text NOT NULL,
    external_id text,
    total integer DEFAULT 0 NOT NULL,
    queued integer DEFAULT 0 NOT NULL,
    running integer DEFAULT 0 NOT NULL,
    succeeded integer DEFAULT 0 NOT NULL,
    failed integer DEFAULT 0 NOT NULL,
    cancelled integer DEFAULT 0 NOT NULL,
    quarantined integer DEFAULT 0 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    completed_at timestamp with time zone,
    rejected integer DEFAULT 0 NOT NULL,
    options jsonb DEFAULT '{}'::jsonb NOT NULL,
    received_at timestamp with time zone,
    started_at timestamp with time zone,
    cancelled_at timestamp with time zone,
    expires_at timestamp with time zone,
    expired integer DEFAULT 0 NOT NULL,
    next_item integer DEFAULT 0 NOT NULL,
    receiver text,
    progress_at timestamp with time zone DEFAULT now() NOT NULL,
    problem jsonb,
    ignored integer DEFAULT 0 NOT NULL,
    ignored_names text[] DEFAULT '{}'::text[] NOT NULL
);

CREATE TABLE public.deliveries (
    id text NOT NULL,
    tenant_id text NOT NULL,
    event_id text NOT NULL,
    endpoint_id text NOT NULL,
    state character varying(32) NOT NULL,
    attempt_count integer DEFAULT 0 NOT NULL,
    round_start integer DEFAULT 0 NOT NULL,
    next_attempt_at timestamp with time zone DEFAULT now(),
    lease_token text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    finished_at timestamp with time zone,
    CONSTRAINT ck_deliveries_deliverystate CHECK (((state)::text = ANY ((ARRAY['pending'::character varying, 'delivered'::character varying, 'failed'::character varying])::text[])))
)
WITH (autovacuum_vacuum_scale_factor='0.01');

CREATE TABLE public.delivery_attempts (
    delivery_id text NOT NULL,
    number integer NOT NULL,
    status_code integer,
    error text,
    duration_ms double precision NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    tenant_id text NOT NULL,
    response_head text
);

CREATE TABLE public.events (
    id text NOT NULL,
    tenant_id text NOT NULL,
    type character varying(32) NOT NULL,
    job_id text,
    batch_id text,
    payload jsonb,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT ck_events_eventtype CHECK (((type)::text = ANY ((ARRAY['job.succeeded'::character varying, 'job.failed'::character varying, 'job.cancelled'::character varying, 'job.quarantined'::character varying, 'batch.completed'::character varying, 'test'::character varying])::text[]))),
    CONSTRAINT ck_events_told_of_something CHECK ((num_nonnulls(payload, job_id, batch_id) > 0))
);

CREATE TABLE public.idempotency_keys (
    tenant_id text NOT NULL,
    key text NOT NULL,
    fingerprint text NOT NULL,
    resource_id text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE public.images (
    id text NOT NULL,
    tenant_id text NOT NULL,
    study_id text NOT NULL,
    "position" integer NOT NULL,
    file_index integer NOT NULL,
    frame integer NOT NULL,
    object_key text,
    sha256 text NOT NULL,
    size_bytes bigint NOT NULL,
    media_type text,
    width integer,
    height integer,
    problem jsonb,
    burned_in boolean DEFAULT false NOT NULL,
    deidentified jsonb
);

CREATE TABLE public.jobs (
    id text NOT NULL,
    tenant_id text NOT NULL,
    study_id text NOT NULL,
    batch_id text,
    classifier character varying(32) NOT NULL,
    priority character varying(32) NOT NULL,
    rank smallint NOT NULL,
    external_id text,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    state character varying(32) NOT NULL,
    error jsonb,
    not_before timestamp with time zone,
    alone boolean DEFAULT false NOT NULL,
    error_attempts integer DEFAULT 0 NOT NULL,
    crash_attempts integer DEFAULT 0 NOT NULL,
    worker text,
    lease_token text,
    lease_until timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    queued_at timestamp with time zone DEFAULT now() NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    item integer,
    member text,
    custom_id text,
    force boolean DEFAULT false NOT NULL,
    expires_at timestamp with time zone,
    CONSTRAINT ck_jobs_classifier CHECK (((classifier)::text = ANY ((ARRAY['binary'::character varying, 'ensemble'::character varying])::text[]))),
    CONSTRAINT ck_jobs_finished_when_terminal CHECK ((((state)::text = ANY ((ARRAY['queued'::character varying, 'running'::character varying])::text[])) = (finished_at IS NULL))),
    CONSTRAINT ck_jobs_jobstate CHECK (((state)::text = ANY ((ARRAY['queued'::character varying, 'running'::character varying, 'succeeded'::character varying, 'failed'::character varying, 'cancelled'::character varying, 'quarantined'::character varying])::text[]))),
    CONSTRAINT ck_jobs_lease_while_running CHECK ((((state)::text = 'running'::text) = ((lease_token IS NOT NULL) AND (lease_until IS NOT NULL)))),
    CONSTRAINT ck_jobs_priority CHECK (((priority)::text = ANY ((ARRAY['stat'::character varying, 'routine'::character varying, 'bulk'::character varying])::text[])))
)
WITH (autovacuum_vacuum_scale_factor='0.01', autovacuum_analyze_scale_factor='0.02');

CREATE TABLE public.model_bundles (
    sha256 text NOT NULL,
    name text NOT NULL,
    version text NOT NULL,
    card jsonb NOT NULL,
    first_seen_at timestamp with time zone DEFAULT now() NOT NULL,
    active boolean DEFAULT false NOT NULL,
    stored boolean DEFAULT false NOT NULL,
    activated_at timestamp with time zone
);

CREATE TABLE public.page_sessions (
    id text NOT NULL,
    tenant_id text NOT NULL,
    key_id text NOT NULL,
    expires_at timestamp with time zone NOT NULL
);

CREATE VIEW public.pending_deliveries AS
 SELECT next_attempt_at
   FROM public.deliveries
  WHERE ((state)::text = 'pending'::text);

CREATE VIEW public.queue AS
 SELECT tenant_id,
    rank,
    priority,
    state,
    not_before,
    queued_at,
    started_at,
    finished_at
   FROM public.jobs;

CREATE TABLE public.tenants (
    id text NOT NULL,
    name text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    keep_identity boolean DEFAULT false NOT NULL,
    uid_secret text DEFAULT ((gen_random_uuid())::text || (gen_random_uuid())::text) NOT NULL,
    expires_after_days double precision,
    stat_share integer DEFAULT 50 NOT NULL
);

CREATE VIEW public.queue_tenants AS
 SELECT id
   FROM public.tenants;

CREATE TABLE public.results (
    job_id text NOT NULL,
    tenant_id text NOT NULL,
    bundle_sha256 text NOT NULL,
    prediction text,
    probabilities jsonb,
    images jsonb NOT NULL,
    timings jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    outcome character varying(32) DEFAULT 'answered'::character varying NOT NULL,
    reason text,
    detail text,
    corrected_modality character varying(32),
    review_reasons text[] DEFAULT '{}'::text[] NOT NULL,
    second_opinion jsonb,
    reused_from text,
    CONSTRAINT ck_results_answer_or_reason CHECK (
CASE outcome
    WHEN 'answered'::text THEN ((reason IS NULL) AND (prediction IS NOT NULL) AND (probabilities IS NOT NULL))
    ELSE ((reason IS NOT NULL) AND (prediction IS NULL) AND (probabilities IS NULL))
END),
    CONSTRAINT ck_results_modality CHECK (((corrected_modality)::text = ANY ((ARRAY['xray'::character varying, 'ct'::character varying])::text[]))),
    CONSTRAINT ck_results_resultoutcome CHECK (((outcome)::text = ANY ((ARRAY['answered'::character varying, 'rejected_input'::character varying])::text[])))
);

CREATE TABLE public.studies (
    id text NOT NULL,
    tenant_id text NOT NULL,
    modality character varying(32) NOT NULL,
    external_id text,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    image_count integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    content_sha256 text,
    open boolean DEFAULT false NOT NULL,
    expected_images integer,
    quiet_seconds double precision,
    quiet_until timestamp with time zone,
    wanted jsonb DEFAULT '[]'::jsonb NOT NULL,
    burned_in boolean DEFAULT false NOT NULL,
    file_names text[],
    CONSTRAINT ck_studies_modality CHECK (((modality)::text = ANY ((ARRAY['xray'::character varying, 'ct'::character varying])::text[])))
);

CREATE TABLE public.tombstones (
    study_id text NOT NULL,
    tenant_id text NOT NULL,
    object_keys text[] NOT NULL,
    deleted_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE public.uploads (
    id text NOT NULL,
    tenant_id text NOT NULL,
    object_key text NOT NULL,
    state character varying(32) NOT NULL,
    size_bytes bigint NOT NULL,
    sha256 text NOT NULL,
    info jsonb,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    completed_at timestamp with time zone,
    CONSTRAINT ck_uploads_uploadstate CHECK (((state)::text = ANY ((ARRAY['pending'::character varying, 'complete'::character varying, 'used'::character varying])::text[])))
);

CREATE TABLE public.webhook_endpoints (
    id text NOT NULL,
    tenant_id text NOT NULL,
    url text NOT NULL,
    description text DEFAULT ''::text NOT NULL,
    events text[] NOT NULL,
    secret text NOT NULL,
    previous_secret text,
    previous_secret_until timestamp with time zone,
    enabled boolean DEFAULT true NOT NULL,
    disabled_reason text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    changed_at timestamp with time zone DEFAULT now() NOT NULL,
    failing_since timestamp with time zone,
    include_labels boolean DEFAULT false NOT NULL
);

CREATE TABLE public.workers (
    name text NOT NULL,
    queue text NOT NULL,
    bundle_sha256 text,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    seen_at timestamp with time zone DEFAULT now() NOT NULL,
    bundle_problem text,
    engine text,
    engine_reason text
);

ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);

ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT pk_api_keys PRIMARY KEY (id);

ALTER TABLE ONLY public.artifacts
    ADD CONSTRAINT pk_artifacts PRIMARY KEY (id);

ALTER TABLE ONLY public.audit_log
    ADD CONSTRAINT pk_audit_log PRIMARY KEY (id);

ALTER TABLE ONLY public.batch_files
    ADD CONSTRAINT pk_batch_files PRIMARY KEY (batch_id, item);

ALTER TABLE ONLY public.batch_rejections
    ADD CONSTRAINT pk_batch_rejections PRIMARY KEY (batch_id, item);

ALTER TABLE ONLY public.batches
    ADD CONSTRAINT pk_batches PRIMARY KEY (id);

ALTER TABLE ONLY public.deliveries
    ADD CONSTRAINT pk_deliveries PRIMARY KEY (id);

ALTER TABLE ONLY public.delivery_attempts
    ADD CONSTRAINT pk_delivery_attempts PRIMARY KEY (delivery_id, number);

ALTER TABLE ONLY public.events
    ADD CONSTRAINT pk_events PRIMARY KEY (id);

ALTER TABLE ONLY public.idempotency_keys
    ADD CONSTRAINT pk_idempotency_keys PRIMARY KEY (tenant_id, key);

ALTER TABLE ONLY public.images
    ADD CONSTRAINT pk_images PRIMARY KEY (id);

ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT pk_jobs PRIMARY KEY (id);

ALTER TABLE ONLY public.model_bundles
    ADD CONSTRAINT pk_model_bundles PRIMARY KEY (sha256);

ALTER TABLE ONLY public.page_sessions
    ADD CONSTRAINT pk_page_sessions PRIMARY KEY (id);

ALTER TABLE ONLY public.results
    ADD CONSTRAINT pk_results PRIMARY KEY (job_id);

ALTER TABLE ONLY public.studies
    ADD CONSTRAINT pk_studies PRIMARY KEY (id);

ALTER TABLE ONLY public.tenants
    ADD CONSTRAINT pk_tenants PRIMARY KEY (id);

ALTER TABLE ONLY public.tombstones
    ADD CONSTRAINT pk_tombstones PRIMARY KEY (study_id);

ALTER TABLE ONLY public.uploads
    ADD CONSTRAINT pk_uploads PRIMARY KEY (id);

ALTER TABLE ONLY public.webhook_endpoints
    ADD CONSTRAINT pk_webhook_endpoints PRIMARY KEY (id);

ALTER TABLE ONLY public.workers
    ADD CONSTRAINT pk_workers PRIMARY KEY (name, queue);

ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT uq_api_keys_hash UNIQUE (hash);

ALTER TABLE ONLY public.artifacts
    ADD CONSTRAINT uq_artifacts_job_id_image_id_kind UNIQUE (job_id, image_id, kind);

ALTER TABLE ONLY public.batch_files
    ADD CONSTRAINT uq_batch_files_object_key UNIQUE (object_key);

ALTER TABLE ONLY public.deliveries
    ADD CONSTRAINT uq_deliveries_event_id_endpoint_id UNIQUE (event_id, endpoint_id);

ALTER TABLE ONLY public.images
    ADD CONSTRAINT uq_images_study_id_position UNIQUE (study_id, "position");

ALTER TABLE ONLY public.tenants
    ADD CONSTRAINT uq_tenants_name UNIQUE (name);

ALTER TABLE ONLY public.uploads
    ADD CONSTRAINT uq_uploads_object_key UNIQUE (object_key);

CREATE INDEX ix_api_keys_prefix ON public.api_keys USING btree (prefix);

CREATE INDEX ix_audit_log_tenant_id_id ON public.audit_log USING btree (tenant_id, id);

CREATE INDEX ix_batches_receiving ON public.batches USING btree (created_at) WHERE (received_at IS NULL);

CREATE INDEX ix_batches_tenant_id_id ON public.batches USING btree (tenant_id, id);

CREATE INDEX ix_deliveries_due ON public.deliveries USING btree (next_attempt_at) WHERE ((state)::text = 'pending'::text);

CREATE INDEX ix_deliveries_endpoint_id_id ON public.deliveries USING btree (endpoint_id, id);

CREATE INDEX ix_events_batch_id ON public.events USING btree (batch_id);

CREATE INDEX ix_events_job_id ON public.events USING btree (job_id);

CREATE INDEX ix_idempotency_keys_created_at ON public.idempotency_keys USING btree (created_at);

CREATE INDEX ix_images_object_key ON public.images USING btree (object_key);

CREATE INDEX ix_jobs_delayed ON public.jobs USING btree (not_before) WHERE (((state)::text = 'queued'::text) AND (not_before IS NOT NULL));

CREATE INDEX ix_jobs_expires_at ON public.jobs USING btree (expires_at) WHERE (((state)::text = 'queued'::text) AND (expires_at IS NOT NULL));

CREATE INDEX ix_jobs_finished_at ON public.jobs USING btree (finished_at) WHERE (finished_at IS NOT NULL);

CREATE INDEX ix_jobs_outside_batches ON public.jobs USING btree (tenant_id, id) WHERE (batch_id IS NULL);

CREATE INDEX ix_jobs_queued ON public.jobs USING btree (tenant_id, rank, queued_at, id) WHERE (((state)::text = 'queued'::text) AND (not_before IS NULL));

CREATE INDEX ix_jobs_running ON public.jobs USING btree (lease_until) WHERE ((state)::text = 'running'::text);

CREATE INDEX ix_jobs_study_id ON public.jobs USING btree (study_id);

CREATE INDEX ix_jobs_tenant_id_id ON public.jobs USING btree (tenant_id, id);

CREATE INDEX ix_page_sessions_expires_at ON public.page_sessions USING btree (expires_at);

CREATE INDEX ix_results_reused_from ON public.results USING btree (reused_from) WHERE (reused_from IS NOT NULL);

CREATE INDEX ix_studies_quiet ON public.studies USING btree (quiet_until) WHERE open;

CREATE INDEX ix_studies_tenant_id_content_sha256 ON public.studies USING btree (tenant_id, content_sha256);

CREATE INDEX ix_tombstones_pending ON public.tombstones USING btree (study_id) WHERE (cardinality(object_keys) > 0);

CREATE INDEX ix_uploads_tenant_id_id ON public.uploads USING btree (tenant_id, id);

CREATE INDEX ix_uploads_unused ON public.uploads USING btree (expires_at) WHERE ((state)::text <> 'used'::text);

CREATE INDEX ix_webhook_endpoints_tenant_id_id ON public.webhook_endpoints USING btree (tenant_id, id);

CREATE UNIQUE INDEX uq_jobs_batch_id_item ON public.jobs USING btree (batch_id, item) WHERE (batch_id IS NOT NULL);

CREATE UNIQUE INDEX uq_model_bundles_active ON public.model_bundles USING btree (active) WHERE active;

CREATE TRIGGER audit_log_append_only BEFORE DELETE OR UPDATE ON public.audit_log FOR EACH STATEMENT EXECUTE FUNCTION public.audit_log_refuse();

CREATE TRIGGER batches_count_delete AFTER DELETE ON public.jobs REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION public.batches_uncount();

CREATE TRIGGER batches_count_insert AFTER INSERT ON public.jobs REFERENCING NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION public.batches_count();

CREATE TRIGGER batches_count_update AFTER UPDATE ON public.jobs REFERENCING OLD TABLE AS before NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION public.batches_count();

CREATE TRIGGER delivery_attempts_tenant BEFORE INSERT ON public.delivery_attempts FOR EACH ROW WHEN ((new.tenant_id IS NULL)) EXECUTE FUNCTION public.delivery_attempts_tenant();

CREATE TRIGGER jobs_begin BEFORE INSERT ON public.jobs FOR EACH ROW WHEN (((new.state)::text <> 'queued'::text)) EXECUTE FUNCTION public.jobs_refuse();

CREATE TRIGGER jobs_guard BEFORE UPDATE ON public.jobs FOR EACH ROW WHEN ((NOT ((((new.state)::text = (old.state)::text) AND ((old.state)::text = ANY ((ARRAY['queued'::character varying, 'running'::character varying])::text[]))) OR (((old.state)::text = 'queued'::text) AND ((new.state)::text = ANY ((ARRAY['running'::character varying, 'failed'::character varying, 'cancelled'::character varying])::text[]))) OR (((old.state)::text = 'running'::text) AND ((new.state)::text <> 'running'::text))))) EXECUTE FUNCTION public.jobs_refuse();

CREATE CONSTRAINT TRIGGER jobs_result_check AFTER UPDATE OF state ON public.jobs DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (((new.state)::text = 'succeeded'::text)) EXECUTE FUNCTION public.jobs_result_check();

CREATE TRIGGER jobs_stat_share BEFORE INSERT ON public.jobs FOR EACH ROW WHEN ((((new.state)::text = 'queued'::text) AND (new.rank = 0))) EXECUTE FUNCTION public.jobs_hold_stat_share();

CREATE TRIGGER results_state_check AFTER INSERT ON public.results REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION public.results_state_check();

CREATE TRIGGER webhook_endpoints_note_change BEFORE UPDATE ON public.webhook_endpoints FOR EACH ROW WHEN (((new.enabled <> old.enabled) OR (new.events <> old.events))) EXECUTE FUNCTION public.webhook_endpoints_note_change();

ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT fk_api_keys_tenant_id FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.artifacts
    ADD CONSTRAINT fk_artifacts_job_id FOREIGN KEY (job_id) REFERENCES public.jobs(id);

ALTER TABLE ONLY public.artifacts
    ADD CONSTRAINT fk_artifacts_tenant_id FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.audit_log
    ADD CONSTRAINT fk_audit_log_tenant_id FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.batch_files
    ADD CONSTRAINT fk_batch_files_batch_id FOREIGN KEY (batch_id) REFERENCES public.batches(id);

ALTER TABLE ONLY public.batch_files
    ADD CONSTRAINT fk_batch_files_tenant_id FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.batch_rejections
    ADD CONSTRAINT fk_batch_rejections_batch_id FOREIGN KEY (batch_id) REFERENCES public.batches(id);

ALTER TABLE ONLY public.batch_rejections
    ADD CONSTRAINT fk_batch_rejections_tenant_id FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.batches
    ADD CONSTRAINT fk_batches_tenant_id FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.deliveries
    ADD CONSTRAINT fk_deliveries_endpoint_id FOREIGN KEY (endpoint_id) REFERENCES public.webhook_endpoints(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.deliveries
    ADD CONSTRAINT fk_deliveries_event_id FOREIGN KEY (event_id) REFERENCES public.events(id);

ALTER TABLE ONLY public.deliveries
    ADD CONSTRAINT fk_deliveries_tenant_id FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.delivery_attempts
    ADD CONSTRAINT fk_delivery_attempts_delivery_id FOREIGN KEY (delivery_id) REFERENCES public.deliveries(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.delivery_attempts
    ADD CONSTRAINT fk_delivery_attempts_tenant_id FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.events
    ADD CONSTRAINT fk_events_batch_id FOREIGN KEY (batch_id) REFERENCES public.batches(id);

ALTER TABLE ONLY public.events
    ADD CONSTRAINT fk_events_job_id FOREIGN KEY (job_id) REFERENCES public.jobs(id);

ALTER TABLE ONLY public.events
    ADD CONSTRAINT fk_events_tenant_id FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.idempotency_keys
    ADD CONSTRAINT fk_idempotency_keys_tenant_id FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.images
    ADD CONSTRAINT fk_images_study_id FOREIGN KEY (study_id) REFERENCES public.studies(id);

ALTER TABLE ONLY public.images
    ADD CONSTRAINT fk_images_tenant_id FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT fk_jobs_batch_id FOREIGN KEY (batch_id) REFERENCES public.batches(id);

ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT fk_jobs_study_id FOREIGN KEY (study_id) REFERENCES public.studies(id);

ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT fk_jobs_tenant_id FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.page_sessions
    ADD CONSTRAINT fk_page_sessions_key_id FOREIGN KEY (key_id) REFERENCES public.api_keys(id);

ALTER TABLE ONLY public.page_sessions
    ADD CONSTRAINT fk_page_sessions_tenant_id FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.results
    ADD CONSTRAINT fk_results_bundle_sha256 FOREIGN KEY (bundle_sha256) REFERENCES public.model_bundles(sha256);

ALTER TABLE ONLY public.results
    ADD CONSTRAINT fk_results_job_id FOREIGN KEY (job_id) REFERENCES public.jobs(id);

ALTER TABLE ONLY public.results
    ADD CONSTRAINT fk_results_tenant_id FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.studies
    ADD CONSTRAINT fk_studies_tenant_id FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.tombstones
    ADD CONSTRAINT fk_tombstones_tenant_id FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.uploads
    ADD CONSTRAINT fk_uploads_tenant_id FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.webhook_endpoints
    ADD CONSTRAINT fk_webhook_endpoints_tenant_id FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE public.api_keys ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.artifacts ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.audit_log ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.batch_files ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.batch_rejections ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.batches ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.deliveries ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.delivery_attempts ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.events ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.idempotency_keys ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.images ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.jobs ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.page_sessions ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.results ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.studies ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON public.api_keys TO thoraq_api USING ((tenant_id = current_setting('thoraq.tenant'::text, true))) WITH CHECK ((tenant_id = current_setting('thoraq.tenant'::text, true)));

CREATE POLICY tenant ON public.artifacts TO thoraq_api USING ((tenant_id = current_setting('thoraq.tenant'::text, true))) WITH CHECK ((tenant_id = current_setting('thoraq.tenant'::text, true)));

CREATE POLICY tenant ON public.audit_log TO thoraq_api USING ((tenant_id = current_setting('thoraq.tenant'::text, true))) WITH CHECK ((tenant_id = current_setting('thoraq.tenant'::text, true)));

CREATE POLICY tenant ON public.batch_files TO thoraq_api USING ((tenant_id = current_setting('thoraq.tenant'::text, true))) WITH CHECK ((tenant_id = current_setting('thoraq.tenant'::text, true)));

CREATE POLICY tenant ON public.batch_rejections TO thoraq_api USING ((tenant_id = current_setting('thoraq.tenant'::text, true))) WITH CHECK ((tenant_id = current_setting('thoraq.tenant'::text, true)));

CREATE POLICY tenant ON public.batches TO thoraq_api USING ((tenant_id = current_setting('thoraq.tenant'::text, true))) WITH CHECK ((tenant_id = current_setting('thoraq.tenant'::text, true)));

CREATE POLICY tenant ON public.deliveries TO thoraq_api USING ((tenant_id = current_setting('thoraq.tenant'::text, true))) WITH CHECK ((tenant_id = current_setting('thoraq.tenant'::text, true)));

CREATE POLICY tenant ON public.delivery_attempts TO thoraq_api USING ((tenant_id = current_setting('thoraq.tenant'::text, true))) WITH CHECK ((tenant_id = current_setting('thoraq.tenant'::text, true)));

CREATE POLICY tenant ON public.events TO thoraq_api USING ((tenant_id = current_setting('thoraq.tenant'::text, true))) WITH CHECK ((tenant_id = current_setting('thoraq.tenant'::text, true)));

CREATE POLICY tenant ON public.idempotency_keys TO thoraq_api USING ((tenant_id = current_setting('thoraq.tenant'::text, true))) WITH CHECK ((tenant_id = current_setting('thoraq.tenant'::text, true)));

CREATE POLICY tenant ON public.images TO thoraq_api USING ((tenant_id = current_setting('thoraq.tenant'::text, true))) WITH CHECK ((tenant_id = current_setting('thoraq.tenant'::text, true)));

CREATE POLICY tenant ON public.jobs TO thoraq_api USING ((tenant_id = current_setting('thoraq.tenant'::text, true))) WITH CHECK ((tenant_id = current_setting('thoraq.tenant'::text, true)));

CREATE POLICY tenant ON public.page_sessions TO thoraq_api USING ((tenant_id = current_setting('thoraq.tenant'::text, true))) WITH CHECK ((tenant_id = current_setting('thoraq.tenant'::text, true)));

CREATE POLICY tenant ON public.results TO thoraq_api USING ((tenant_id = current_setting('thoraq.tenant'::text, true))) WITH CHECK ((tenant_id = current_setting('thoraq.tenant'::text, true)));

CREATE POLICY tenant ON public.studies TO thoraq_api USING ((tenant_id = current_setting('thoraq.tenant'::text, true))) WITH CHECK ((tenant_id = current_setting('thoraq.tenant'::text, true)));

CREATE POLICY tenant ON public.tenants TO thoraq_api USING ((id = current_setting('thoraq.tenant'::text, true))) WITH CHECK ((id = current_setting('thoraq.tenant'::text, true)));

CREATE POLICY tenant ON public.tombstones TO thoraq_api USING ((tenant_id = current_setting('thoraq.tenant'::text, true))) WITH CHECK ((tenant_id = current_setting('thoraq.tenant'::text, true)));

CREATE POLICY tenant ON public.uploads TO thoraq_api USING ((tenant_id = current_setting('thoraq.tenant'::text, true))) WITH CHECK ((tenant_id = current_setting('thoraq.tenant'::text, true)));

CREATE POLICY tenant ON public.webhook_endpoints TO thoraq_api USING ((tenant_id = current_setting('thoraq.tenant'::text, true))) WITH CHECK ((tenant_id = current_setting('thoraq.tenant'::text, true)));

ALTER TABLE public.tenants ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.tombstones ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.uploads ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.webhook_endpoints ENABLE ROW LEVEL SECURITY;

GRANT USAGE ON SCHEMA public TO thoraq_api;

REVOKE ALL ON FUNCTION public.keys_in_force(wanted_prefix text, wanted_id text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.keys_in_force(wanted_prefix text, wanted_id text) TO thoraq_api;

REVOKE ALL ON FUNCTION public.queue_lengths() FROM PUBLIC;
GRANT ALL ON FUNCTION public.queue_lengths() TO thoraq_api;

GRANT SELECT,INSERT,UPDATE ON TABLE public.api_keys TO thoraq_api;

GRANT SELECT,DELETE ON TABLE public.artifacts TO thoraq_api;

GRANT SELECT,INSERT ON TABLE public.audit_log TO thoraq_api;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.batch_files TO thoraq_api;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.batch_rejections TO thoraq_api;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.batches TO thoraq_api;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.deliveries TO thoraq_api;

GRANT SELECT,DELETE ON TABLE public.delivery_attempts TO thoraq_api;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.events TO thoraq_api;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.idempotency_keys TO thoraq_api;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.images TO thoraq_api;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.jobs TO thoraq_api;

GRANT SELECT,UPDATE ON TABLE public.model_bundles TO thoraq_api;

GRANT SELECT,INSERT,DELETE ON TABLE public.page_sessions TO thoraq_api;

GRANT SELECT ON TABLE public.pending_deliveries TO thoraq_api;

GRANT SELECT ON TABLE public.queue TO thoraq_api;

GRANT SELECT ON TABLE public.tenants TO thoraq_api;

GRANT SELECT ON TABLE public.queue_tenants TO thoraq_api;

GRANT SELECT,DELETE,UPDATE ON TABLE public.results TO thoraq_api;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.studies TO thoraq_api;

GRANT SELECT,INSERT,UPDATE ON TABLE public.tombstones TO thoraq_api;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.uploads TO thoraq_api;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.webhook_endpoints TO thoraq_api;

GRANT SELECT ON TABLE public.workers TO thoraq_api;
