"""What is written to storage, byte for byte, as FORMAT.md specifies it.

Pure functions and frozen values: no network, no clock, no threads, no progress. From the
outside in::

    sealed    one object: header, sealed segments, header again
    header    who may open it: archive, object, kind, key slots, sealed object key, MAC
    keys      password and recovery code -> archive keys; object keys; chunk ids
    aead      the two cipher suites, on given buffers
    payload   the stream inside: framed records, padding, index, tail
    records   what the records say: about, run, settings, pack
    block     chunks side by side, compressed together
    entry     one path of the archived tree, and the content it points to
    wire      msgpack with limits
"""
