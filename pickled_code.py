"""Code inside pickles, found without loading them.

cloudpickle stores a function or class by value if it was defined in ``__main__`` or a notebook, and every lambda. Its
bytecode runs on the Python minor that compiled it. On another one it ends in a segmentation fault or an endless loop.
"""

import pickletools

CODE = {
    "_make_function",
    "_make_skeleton_class",
    "_make_skeleton_enum",
    "CodeType",
    # Releases before cloudpickle 2.1 used these.
    "_make_skel_func",
    "_fill_function",
    "_rehydrate_skeleton_class",
}
"""The functions of cloudpickle that build functions and classes, and the type of bytecode."""


def holds_code(content: bytes) -> bool:
    """Return whether the content is a pickle that stores functions or classes by value.

    Pickles that other libraries compress, and files in an archive, are not looked into.
    """
    try:
        for _, argument, _ in pickletools.genops(content):
            # A global is "module name" in old protocols. In new ones the name is a text of its own.
            if isinstance(argument, str) and argument.rpartition(" ")[2] in CODE:
                return True
    except ValueError:  # not a pickle, or only its beginning
        pass
    return False
