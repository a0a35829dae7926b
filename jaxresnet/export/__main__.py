"""Entry point of ``python -m jaxresnet.export``."""

from jaxresnet.export import main

if __name__ == "__main__":
    main()
