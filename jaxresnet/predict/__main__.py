"""Entry point of ``python -m jaxresnet.predict``."""

from jaxresnet.predict import main

main()
