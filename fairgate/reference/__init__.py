"""Pages of the documentation that are made from the code: ``python -m fairgate.reference docs``.

Never imported while serving.
"""
