-- One row per job run. Energies in microjoules, times in epoch seconds. Until Slurm's accounting told the
-- submit time, submit_s is minus the start time.
CREATE TABLE job (
    id INTEGER PRIMARY KEY,
    cluster TEXT NOT NULL,
    job_id BIGINT NOT NULL,
    submit_s BIGINT NOT NULL,
    restart_count INTEGER NOT NULL,
    sluid TEXT,
    array_job_id BIGINT,
    array_task_id BIGINT,
    het_job_id BIGINT,
    het_offset INTEGER,
    name TEXT NOT NULL,
    uid BIGINT,
    user_name TEXT NOT NULL,
    account TEXT NOT NULL,
    partition_name TEXT NOT NULL,
    qos TEXT NOT NULL,
    state TEXT NOT NULL,
    status TEXT NOT NULL,
    provenance TEXT NOT NULL,
    start_s BIGINT NOT NULL,
    end_s BIGINT NOT NULL,
    num_nodes INTEGER NOT NULL,
    cpus BIGINT NOT NULL,
    gpus INTEGER NOT NULL,
    energy_uj BIGINT,
    u_uj BIGINT NOT NULL,
    idle_uj BIGINT NOT NULL,
    wasted_uj BIGINT NOT NULL,
    gpu_held_s BIGINT NOT NULL,
    gpu_idle_s BIGINT,
    revision INTEGER NOT NULL,
    inputs TEXT NOT NULL
);
CREATE UNIQUE INDEX job_key ON job (job_id, cluster, submit_s, restart_count);
CREATE INDEX job_end ON job (end_s);
CREATE INDEX job_array ON job (array_job_id);
CREATE INDEX job_het ON job (het_job_id);

-- The whole record as JSON (perun.record/1) without its shares, which are rows of their own.
CREATE TABLE record (
    job INTEGER PRIMARY KEY,
    body TEXT NOT NULL
);

-- The energy of a job on one node, domain and local day; sums to the job's energy.
CREATE TABLE job_share (
    job INTEGER NOT NULL,
    node TEXT NOT NULL,
    domain TEXT NOT NULL,
    day TEXT NOT NULL,
    energy_uj BIGINT NOT NULL,
    PRIMARY KEY (job, node, domain, day)
);
CREATE INDEX job_share_day ON job_share (day, node);

-- What the questions of every day read: sums per local day. Kept equal to the job rows in the same transaction.
CREATE TABLE usage_day (
    cluster TEXT NOT NULL,
    day TEXT NOT NULL,
    account TEXT NOT NULL,
    user_name TEXT NOT NULL,
    partition_name TEXT NOT NULL,
    qos TEXT NOT NULL,
    jobs BIGINT NOT NULL,
    unmeasured BIGINT NOT NULL,
    energy_uj BIGINT NOT NULL,
    idle_uj BIGINT NOT NULL,
    wasted_uj BIGINT NOT NULL,
    modelled_uj BIGINT NOT NULL,
    simulated_uj BIGINT NOT NULL,
    footprint_uj BIGINT NOT NULL,
    gpu_held_s BIGINT NOT NULL,
    gpu_watched_s BIGINT NOT NULL,
    gpu_idle_s BIGINT NOT NULL,
    cpu_s BIGINT NOT NULL,
    co2_mg BIGINT NOT NULL,
    cost_millicents BIGINT NOT NULL,
    PRIMARY KEY (cluster, day, account, user_name, partition_name, qos)
);

-- Every change of a record's energy after its first revision.
CREATE TABLE amendment (
    job INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    at_s BIGINT NOT NULL,
    before_uj BIGINT,
    after_uj BIGINT,
    PRIMARY KEY (job, revision)
);

-- Records whose line slurmdbd does not hold yet.
CREATE TABLE slurmdbd_queue (
    job INTEGER PRIMARY KEY,
    due_s BIGINT NOT NULL,
    tries INTEGER NOT NULL
);
CREATE INDEX slurmdbd_queue_due ON slurmdbd_queue (due_s);

-- Who may write (one collector at a time) and how far the comparison with sacct has come.
CREATE TABLE lease (
    name TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    until_s BIGINT NOT NULL
);
CREATE TABLE progress (
    cluster TEXT PRIMARY KEY,
    compared_until_s BIGINT NOT NULL
);
