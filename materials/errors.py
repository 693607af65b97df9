"""The error tree: everything that the program raises on purpose.

    AssayError                     exit code 1: ran, but failed
    ├── InputError                 exit code 2: the user can mend it before anything runs
    │   ├── CampaignError          a campaign or cluster file says something impossible
    │   ├── QueryError             a --where, --sort or material id that cannot be answered
    │   ├── LedgerOutdated         the database was written by an older version, and wants `assay db upgrade`
    │   └── LedgerTooNew           the database was written by a newer version; it is left untouched
    ├── SourceError                a source of structures could not answer
    │   ├── SourceUnavailable      unreachable, or still failing after retries
    │   ├── SourceRefused          it does not accept the key or the query
    │   └── IncompleteAnswer       it answered with less than it promised
    ├── PotentialError             a potential cannot be used
    │   ├── PotentialNotInstalled  its package or its weights are not here
    │   └── AnchorMismatch         it gets known compounds wrong: other conventions, or broken weights
    ├── HullError                  a phase diagram cannot be built or asked
    │   ├── LevelOfTheoryMismatch  energies that cannot be compared met in one hull
    │   └── MissingTerminals       no reference energy for an element
    ├── NoResult                   a campaign ended without a single row that has one
    ├── DFTError                   DFT cannot be done
    │   └── CodeNotInstalled       the code is not here
    ├── QueueError                 a queueing system, Slurm, does not do what it is asked
    │   ├── SchedulerUnreachable   it does not answer
    │   └── JobRefused             it does not take a job
    ├── LedgerError                the database could not be read or written
    │   └── LedgerLost             it went away meanwhile, or gave way to another writer: once more may do
    └── ClusterError               workers could not be had, or all of them are gone

A message names what was found, where (file, key), and what to do. Trouble with a single structure is no
exception but a `Failure` record.
"""


class AssayError(Exception):
    """Something that the program foresaw went wrong."""

    exit_code = 1


class InputError(AssayError):
    """The user's input is wrong; nothing was run."""

    exit_code = 2


class CampaignError(InputError):
    """A campaign or cluster file says something impossible."""


class QueryError(InputError):
    """A query of the ledger cannot be answered as it stands."""


class LedgerOutdated(InputError):
    """The database was written by an older version of Assay."""


class LedgerTooNew(InputError):
    """The database was written by a newer version of Assay."""


class SourceError(AssayError):
    """A source of structures could not answer."""


class SourceUnavailable(SourceError):
    """The source cannot be reached, or still fails after retries."""


class SourceRefused(SourceError):
    """The source does not accept the key or the query."""


class IncompleteAnswer(SourceError):
    """The source answered with less than it promised."""


class PotentialError(AssayError):
    """A machine-learning potential cannot be used."""


class PotentialNotInstalled(PotentialError):
    """The potential's package or weights are not on this machine."""


class AnchorMismatch(PotentialError):
    """The potential gets well-known compounds wrong: another convention, or broken weights."""


class DeviceLost(PotentialError):
    """A GPU stopped answering, and with it everything that this process would ask of it."""


class HullError(AssayError):
    """A phase diagram cannot be built or asked."""


class LevelOfTheoryMismatch(HullError):
    """Energies of different levels of theory met in one hull."""


class MissingTerminals(HullError):
    """An element of the hull has no reference energy."""


class NoResult(AssayError):
    """A campaign ended, and no row has what it was run for."""


class DFTError(AssayError):
    """DFT cannot be done: by its code, or by what runs its jobs."""


class CodeNotInstalled(DFTError):
    """The DFT code is not on this machine."""


class QueueError(AssayError):
    """A queueing system does not do what it is asked."""


class SchedulerUnreachable(QueueError):
    """The queueing system does not answer now; what it knows is as it was."""


class JobRefused(QueueError):
    """The queueing system does not take a job as it is asked for."""


class LedgerError(AssayError):
    """The database could not be read or written."""


class LedgerLost(LedgerError):
    """The database went away while it was asked or told, or ended the transaction for another's sake."""


class ClusterError(AssayError):
    """Dask workers could not be had, or all of them are gone."""
