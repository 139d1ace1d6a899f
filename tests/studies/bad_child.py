"""A child of `DecoderPool` whose decoder really crashes, hangs or eats memory where the request's bytes ask for it."""

import ctypes
import hashlib
import os

from kdistill.studies.decoding_child import Answer, decode_request, serve


def handle(request, payload):
    match payload[:4]:
        case b"SEGV":
            ctypes.string_at(0)
        case b"ABRT":
            os.abort()
        case b"BUSY":  # native code that gives no signal back to Python
            hashlib.pbkdf2_hmac("sha512", b"key", b"salt", 2**31 - 1)
        case b"IDLE":
            ctypes.CDLL(None).sleep(1000)
        case b"OOM!":
            bytearray(64 << 30)
        case b"EXIT":
            os._exit(0)
        case b"BUG!":
            raise RuntimeError("not ours")
        case b"LIE!":
            return Answer({"arrays_are": "missing"}, ())
        case b"PID!":
            return Answer({"what": str(os.getpid()), "remedy": None})
    return decode_request(request, payload)


if __name__ == "__main__":
    serve(handle)
