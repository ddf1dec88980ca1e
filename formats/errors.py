"""Every error of the program, in one tree.

::

    ArchiverError             anything this program says by itself
    ├── SettingsError         the ini file or an option is wrong: nothing was done
    ├── FormatError           bytes are not what FORMAT.md says
    │   ├── ForeignError      not one of our objects, or another archive's
    │   ├── DamagedError      one of ours, and altered or cut
    │   └── UnsupportedError  one of ours, written by a newer program
    ├── AccessError           the keys do not open it
    │   ├── PasswordError     wrong password
    │   └── CodeError         mistyped or wrong recovery code
    ├── StorageError          the storage refuses or does not answer
    │   ├── MissingError      the storage has no object of that name
    │   ├── ColdError         the object must be thawed before it can be read
    │   ├── TransientError    a connection was lost, or the storage is busy: the same call may work
    │   └── UncertainError    nobody knows whether a put got through: its name is spent
    ├── CostError             reading would cost more than was allowed
    ├── CatalogueError        the .archive file is no catalogue, damaged, or too new
    │   └── BusyError         another process is writing to it
    ├── SourceError           the folder to archive cannot be used
    └── DestinationError      the folder to restore into cannot be used

Messages are lower case, name the object and say the next step.
"""


class ArchiverError(Exception):
    """Root of the tree; `str()` is what the user reads."""


class SettingsError(ArchiverError):
    """A setting or option is missing, unknown or out of range."""


class FormatError(ArchiverError):
    """Bytes read are not what the format allows."""


class ForeignError(FormatError):
    """The bytes are no object of this program, or one of another archive."""


class DamagedError(FormatError):
    """Authentication, a checksum or a bound failed: the bytes were altered or cut."""


class UnsupportedError(FormatError):
    """A version, suite, kind or critical field that this program does not know."""


class AccessError(ArchiverError):
    """The secret given does not open the archive."""


class PasswordError(AccessError):
    """The password opens no slot."""


class CodeError(AccessError):
    """The recovery code is mistyped (its checksum says so) or opens no slot."""


class StorageError(ArchiverError):
    """The storage refused, failed or is not there."""


class MissingError(StorageError):
    """No object of that name in the storage."""


class ColdError(StorageError):
    """The object is cold, or its thaw is still under way."""


class TransientError(StorageError):
    """A lost connection, a timeout, a busy storage: the same call may succeed a little later."""


class UncertainError(StorageError):
    """A put was cut where names cannot be used again: the object goes under another name."""


class CostError(ArchiverError):
    """Reading would cost more than was allowed, or what it costs is not known."""


class CatalogueError(ArchiverError):
    """The .archive file cannot be used."""


class BusyError(CatalogueError):
    """Another process holds the writer's lock of this .archive."""


class SourceError(ArchiverError):
    """The source folder cannot be archived."""


class DestinationError(ArchiverError):
    """The destination cannot be written to."""
