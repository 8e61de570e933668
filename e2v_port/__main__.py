"""python -m e2v_port."""

from e2v_port.cli import main

if __name__ == "__main__":
    main()
