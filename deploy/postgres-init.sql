-- Run once by the PostgreSQL of deploy/compose.yaml, when its volume is empty: Prefect gets a database of its own.
CREATE DATABASE prefect;
