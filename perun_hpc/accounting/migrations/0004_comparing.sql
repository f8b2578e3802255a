-- How much time one comparison with sacct may span: less than usual once sacct could not answer for more.
CREATE TABLE comparing (
    cluster TEXT PRIMARY KEY,
    slice_s BIGINT NOT NULL
);
