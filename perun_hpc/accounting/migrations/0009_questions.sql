-- What makes every question cost what it asks for, however long the ledger is.
CREATE INDEX job_user ON job (LOWER(user_name), end_s);
CREATE INDEX job_account ON job (LOWER(account), end_s);
CREATE INDEX job_start ON job (cluster, start_s);
-- Runs of more than eight days: few among millions. All others that overlap a time ended at most so long after it.
CREATE INDEX job_long ON job (end_s) WHERE end_s - start_s > 691200;
CREATE INDEX usage_day_day ON usage_day (day);
CREATE INDEX deleted_end ON deleted (end_s);
