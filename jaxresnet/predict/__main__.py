"""Entry point of ``python -m jaxresnet.predict``."""

from jaxresnet.predict import main

if __name__ == "__main__":
    main()
